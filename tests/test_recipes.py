"""The recipes: each file is good, lies on a fitting box as its page says, and the one with torch runs."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import re
import shutil
import sys
import urllib.request
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from supervisor.cli.check import check
from supervisor.core.environment import Host
from supervisor.core.fleet import handle
from supervisor.core.inventory import Device, GpuState, Reading
from supervisor.core.message import InventoryRead
from supervisor.core.preview import preview
from supervisor.core.snapshot import View, make_plan_json
from supervisor.core.spec import Spec
from supervisor.core.turn import Fleet
from supervisor.front.page import draw
from supervisor.front.show import plan_page
from supervisor.host.files import load_spec
from tests.e2e.harness import ROOT, RunningDaemon, wait_for
from tests.e2e.pages import Command, File, Machine, is_as_said, read_steps

RECIPES = sorted((ROOT / "configs/recipes").glob("*.yaml"))
MIB = 1 << 20

EXPECTED = {
    "vllm": (4, {f"llm/{n}": [n] for n in range(4)}),
    "vllm-tensor-parallel": (4, {"llm/0": [0, 1], "llm/1": [2, 3]}),
    "sglang": (4, {f"llm/{n}": [n] for n in range(4)}),
    "uvicorn-torch": (2, {"model/0": [0], "model/1": [1]}),
    "gunicorn": (2, {"model/0": [0], "model/1": [1]}),
    "triton": (2, {"triton/0": [0], "triton/1": [1]}),
    "torchrun": (4, {"train/0": [0, 1]}),
    "bentoml": (2, {"summarize/0": [0], "summarize/1": [1]}),
    "llama-cpp": (2, {"llm/0": [0], "llm/1": [0], "llm/2": [1], "llm/3": [1]}),
    "cpu-fleet": (0, {"fleet/0": [], "fleet/1": []}),
    "one-card": (1, {"llm/0": [0], "embed/0": [0], "rerank/0": [0]}),
}
"""GPUs of a fitting box, and the indices that each worker gets."""


def box_of(gpus: int) -> Fleet:
    """A daemon that has read so many GPUs of 80 GB."""
    total = 81559 * MIB
    found = tuple(
        Device(f"GPU-{n}000", n, "NVIDIA H100 80GB HBM3", f"0000:{n + 16:02x}:00.0", 0, total, total)
        for n in range(gpus)
    )
    reading = Reading(GpuState.OK, "", found) if gpus else Reading(GpuState.ABSENT, "no library")
    return handle(Fleet(host=Host({})), InventoryRead(reading, 0.0), 0.0)[0]


def plan_of(spec: Spec, gpus: int) -> dict[str, object]:
    fleet = box_of(gpus)
    return make_plan_json(fleet, preview(fleet, spec, 2), View(rfc3339=str))


def test_every_recipe_has_a_page_and_is_expected_somewhere() -> None:
    """And no page is without its file."""
    names = {file.stem for file in RECIPES}

    assert names == EXPECTED.keys()
    assert names == {page.stem for page in (ROOT / "docs/recipes").glob("*.md")} - {"README"}


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_a_recipe_lies_on_a_fitting_box_as_its_page_says(file: Path) -> None:
    """The file is good, its page has it as it is, and what the page shows of `plan` is what it answers."""
    spec = load_spec(file).spec
    gpus, expected = EXPECTED[file.stem]
    plan = plan_of(spec, gpus)
    assert [line for line in check(file, {"PATH": "/usr/bin:/bin"}).warnings if "command not found" not in line] == []
    rows = plan["workers"]
    assert isinstance(rows, list)
    assert {row["worker"]: [gpu["index"] for gpu in row["gpus"]] for row in rows} == expected
    assert all(row["placed"] for row in rows)

    machine, written, command = read_steps((ROOT / f"docs/recipes/{file.stem}.md").read_text())
    assert isinstance(machine, Machine)
    assert isinstance(written, File)
    assert isinstance(command, Command)
    assert (machine.gpus, written.name) == (gpus, file.name)
    assert written.text == f"# {file.name}\n{file.read_text()}"
    assert command.text == f"gpu-supervisor plan {file.name}"
    out = io.StringIO()
    draw(plan_page(plan, datetime.now(UTC)), out, width=None, colour=False)
    shown = re.sub(r"^no GPUs: .*", "...", out.getvalue(), count=1).splitlines()
    said = [re.sub(r"^no GPUs: .*", "...", line) for line in command.answer]
    assert is_as_said(said, shown)


@pytest.mark.slow
def test_the_recipe_with_torch_runs_on_the_cpu(tmp_path: Path) -> None:
    """Two workers answer with their own names and one thread each, and end when asked."""
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("uvicorn") is None:
        pytest.skip("torch or uvicorn is not installed here: `make test-torch` installs both and runs this")
    home = tmp_path / "r"
    shutil.copytree(ROOT / "configs/recipes", home)
    text = (home / "uvicorn-torch.yaml").read_text().replace("port: 8100", "port: 18760")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # Where the recipe's python3 is one with torch.
    daemon = RunningDaemon(home, text, env={"PATH": path, "CUDA_VISIBLE_DEVICES": "-1"})
    try:

        def ready() -> dict[str, Any] | None:
            found = daemon.workers()
            return found if {one["state"] for one in found.values()} == {"ready"} else None

        workers = wait_for(ready, lambda: daemon.output, timeout=300.0)  # The first import of torch may take minutes.
        assert {one["fallback"] for one in workers.values()} == {"cpu"}
        for index in range(2):
            with urllib.request.urlopen(f"http://127.0.0.1:{18760 + index}/", timeout=60) as answer:
                told = json.loads(answer.read())
            assert (told["worker"], told["device"], told["threads"]) == (f"model/{index}", "cpu", 1)
            assert isinstance(told["answer"], float)
        assert daemon.stop() == 0
    finally:
        daemon.end()
