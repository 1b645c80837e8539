# A fresh Debian or Ubuntu with python3 (3.11 or newer), python3-venv and make is enough; the tests need a C compiler.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FILE ?= configs/demo.yaml
SEEDS ?= 2000
JOBS ?= 4
MINUTES ?= 5
GPUS ?= 4
TORCH ?= torch==2.13.0
SUPERVISORD ?= build/supervisord/bin/supervisord

.PHONY: help run box test test-torch check lint types sim mutants conformance bench soak docs clean
.PHONY: install-systemd uninstall-systemd check-systemd test-systemd

help:  ## What there is to make
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

run: $(VENV)/installed  ## Run configs/demo.yaml (or FILE=...) in the foreground
	@exec $(BIN)/gpu-supervisor run $(FILE)

box: $(VENV)/installed-test compiler  ## A shell with GPUS pretended GPUs, to run the daemon by hand
	@$(BIN)/python -m tests.nvml shell $(GPUS)

# Most of the time a test waits for processes: more at once than there are cores.
test: $(VENV)/installed-test compiler  ## Every test, JOBS at once
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal

# In an environment of its own, since torch is large. The CPU wheel is enough, where the package index has it.
test-torch: compiler  ## Install torch (TORCH=torch==2.13.0) into build/torch and run the recipe that needs it
	$(PYTHON) -m venv build/torch
	build/torch/bin/pip install --quiet --editable '.[test]' $(TORCH)
	build/torch/bin/python -m pytest tests/test_recipes.py

check: lint types  ## Lint and types

lint: $(VENV)/installed-check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed-check
	$(BIN)/mypy

sim: $(VENV)/installed-test  ## SEEDS lives of a daemon in the simulator
	$(BIN)/python -m tests.sim --seeds $(SEEDS)

mutants: $(VENV)/installed-test  ## Faults planted in the core, each to be caught; keeps what caught it for `make test`
	$(BIN)/python -m tests.mutants

conformance: $(VENV)/installed-test compiler $(SUPERVISORD)  ## The cases of docs/conformance.md against supervisord too, and that page anew
	$(BIN)/python -m tests.conformance $(SUPERVISORD)

# In an environment of its own: its package has our name.
$(SUPERVISORD):
	$(PYTHON) -m venv build/supervisord
	build/supervisord/bin/pip install --quiet supervisor==4.3.0
	@touch $@

bench: $(VENV)/installed compiler  ## Restart and start against a bare C spawner, wake-ups at rest, planning, how long `status` takes, and what a reading of GPUs costs
	$(BIN)/python benchmarks/restart.py
	$(BIN)/python benchmarks/logs.py
	$(BIN)/python -m benchmarks.planning
	$(BIN)/python -m benchmarks.recording
	$(BIN)/python -m benchmarks.status
	$(BIN)/python -m benchmarks.polling

soak: $(VENV)/installed compiler  ## MINUTES of random trouble for a real daemon; fails when it grows
	$(BIN)/python -m benchmarks.soak --minutes $(MINUTES)

docs: $(VENV)/installed  ## Bring the generated parts of README and docs up to date
	$(BIN)/python docs/generate.py
	$(BIN)/python -m tests.conformance.page

install-systemd:  ## Install as a systemd service into /opt/gpu-supervisor (PREFIX=, DESTDIR=, see systemd/setup.sh)
	@PYTHON='$(PYTHON)' systemd/setup.sh install

uninstall-systemd:  ## Take that back; the service files in /etc/gpu-supervisor stay
	@systemd/setup.sh uninstall

check-systemd:  ## What systemd-analyze says of the unit
	@systemd/analyze.sh

test-systemd: $(VENV)/installed-test  ## Boot a real systemd in a container and try the unit in it (root)
	SYSTEMD_BOX=1 $(BIN)/python -m pytest tests/systemd

clean:  ## Remove what was installed
	rm -rf $(VENV)

.PHONY: compiler
compiler:
	@command -v cc >/dev/null || { echo 'cannot build the test double of libnvidia-ml: no C compiler' >&2; \
		echo 'hint: apt-get install gcc libc6-dev' >&2; exit 1; }

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo 'cannot install: $(PYTHON) is older than 3.11' >&2; echo 'hint: make PYTHON=python3.11' >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo 'hint: apt-get install python3-venv' >&2; exit 1; }

$(VENV)/installed: $(BIN)/pip pyproject.toml
	$(BIN)/pip install --quiet --editable .
	@touch $@

$(VENV)/installed-test: $(BIN)/pip pyproject.toml
	$(BIN)/pip install --quiet --editable '.[test]'
	@touch $@ $(VENV)/installed

$(VENV)/installed-check: $(BIN)/pip pyproject.toml
	$(BIN)/pip install --quiet --editable '.[test,check]'
	@touch $@ $(VENV)/installed-test $(VENV)/installed
