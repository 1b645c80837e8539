"""
A real systemd as PID 1, in a container, with gpu-supervisor installed as `make install-systemd` does it.

The Debian tree and the installation are kept in a cache outside the repository and made when they are missing. A boot
never writes to them. Needs root and `apt-get install systemd-container mmdebstrap python3-venv`; see `why_not`.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp
from typing import TypeVar

ROOT = Path(__file__).parents[2]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or "/var/cache") / "gpu-supervisor-test-box"
TOOLS = {"systemd-nspawn": "systemd-container", "mmdebstrap": "mmdebstrap", "nsenter": "util-linux"}
PYTHON = "/usr/bin/python3"
"""The distribution's own: the tree is of the same release, so what was made with it works in the box too."""

PACKAGES = "systemd,systemd-sysv,dbus,procps,python3"
UNUSED = (
    *("systemd-timesyncd.service", "apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer"),
    *("e2scrub_all.timer", "fstrim.timer", "getty.target", "console-getty.service"),
)
"""Nothing here needs them, and a boot is faster without."""

BOOT_S = 60.0
COMMAND_S = 90.0

T = TypeVar("T")
Completed = subprocess.CompletedProcess[str]


def why_not() -> str:
    """Why there can be no box here, with what helps; empty if there can."""
    if os.geteuid() != 0:
        return "needs root"
    if missing := [package for tool, package in TOOLS.items() if shutil.which(tool) is None]:
        return f"needs `apt-get install -y --no-install-recommends {' '.join(missing)}`"
    if subprocess.run([PYTHON, "-c", "import ensurepip"], capture_output=True, check=False).returncode:
        return f"needs {PYTHON} with `apt-get install -y --no-install-recommends python3-venv`"
    if not any(line.split()[2] == "cgroup2" for line in Path("/proc/mounts").read_text().splitlines()):
        return "needs a cgroup v2 hierarchy"
    return ""


class Box:
    """One boot of it. Everything in it is gone after `end`."""

    def __init__(self) -> None:
        self.tree = make_tree()
        self.stage = install()
        self.state = Path(mkdtemp(prefix="gpu-supervisor-box-"))
        self._cgroups = [Path(mount, self.state.name) for mount in _hierarchies()]
        self._console = (self.state / "console").open("wb")
        for cgroup in self._cgroups:
            cgroup.mkdir()
        self._nspawn = subprocess.Popen(
            # nspawn makes its groups below the one it is started in: it gets one of its own.
            ["sh", "-c", 'for g; do echo $$ >"$g/cgroup.procs"; done; exec ' + " ".join(self._nspawn_words()), "sh"]
            + [str(cgroup) for cgroup in self._cgroups],
            stdin=subprocess.DEVNULL,
            stdout=self._console,
            stderr=self._console,
            env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
            start_new_session=True,
        )
        try:
            self._leader = self._wait_for_leader()
            self._wait_for_boot()
        except BaseException:
            self.end()
            raise

    def run(self, *words: str, check: bool = True, timeout: float = COMMAND_S) -> Completed:
        """A command in the box."""
        inside = ["nsenter", "-t", str(self._leader), "-m", "-u", "-i", "-n", "-p", "-C", "--"]
        found = subprocess.run(
            [*inside, *words],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            stdin=subprocess.DEVNULL,
            env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"},
            cwd="/",
        )
        assert not check or found.returncode == 0, f"{words}: {found.returncode}\n{found.stdout}\n{found.stderr}"
        return found

    def write(self, path: str, text: str) -> None:
        """A file in the box, at once."""
        words = ["sh", "-c", 'mkdir -p "${1%/*}"; printf %s "$2" >"$1.new"; mv "$1.new" "$1"', "sh", path, text]
        self.run(*words)

    def show(self, unit: str, name: str) -> str:
        """One property of a unit."""
        return self.run("systemctl", "show", unit, "-P", name).stdout.strip()

    def end(self) -> None:
        """Power it off; what does not go is killed."""
        # nspawn makes an orderly power-off of the first, and ends at once with the second.
        for number, patience_s in ((signal.SIGTERM, 20.0), (signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
            if self._nspawn.poll() is None:
                self._nspawn.send_signal(number)
                try:
                    self._nspawn.wait(patience_s)
                except subprocess.TimeoutExpired:
                    continue
        for cgroup in self._cgroups:
            for folder in sorted(cgroup.glob("**/"), reverse=True):
                folder.rmdir()
        self._console.close()
        shutil.rmtree(self.state)

    def _nspawn_words(self) -> list[str]:
        units = "/usr/local/lib/systemd/system"
        binds = [f"--bind-ro={self.stage}{path}:{path}" for path in ("/opt/gpu-supervisor", units, "/usr/local/bin")]
        return [
            *("systemd-nspawn", "--quiet", "-D", str(self.tree), "--volatile=overlay", "--boot", "--register=no"),
            *("--keep-unit", "--console=pipe", f"--machine={_machine_name(self.state)}", "--link-journal=no"),
            *("--resolv-conf=off", "--timezone=off", "--private-network", *binds, "systemd.show_status=no"),
        ]

    def _wait_for_leader(self) -> int:
        def leader() -> int | None:
            assert self._nspawn.poll() is None, f"nspawn ended: {(self.state / 'console').read_text()}"
            children = Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children").read_text().split()
            names = {int(pid): Path(f"/proc/{pid}/comm").read_text().strip() for pid in children}
            return next((pid for pid, name in names.items() if name == "systemd"), None)

        return until(leader, "systemd in its container", BOOT_S)

    def _wait_for_boot(self) -> None:
        def is_booted() -> bool:
            state = self.run("systemctl", "is-system-running", check=False).stdout.strip()
            return state in {"running", "degraded"}

        until(is_booted, "the end of the boot", BOOT_S)


def until(found: Callable[[], T | None], what: Callable[[], str] | str, timeout: float = COMMAND_S) -> T:
    """Wait until something is there, looking again and again."""
    deadline = time.monotonic() + timeout
    while True:
        result = found()
        if result is not None and result is not False:
            return result
        if time.monotonic() > deadline:
            raise AssertionError(f"waited in vain: {what if isinstance(what, str) else what()}")
        time.sleep(0.1)


def _machine_name(state: Path) -> str:
    """Of the random name of the folder: letters and digits with single dashes between, as nspawn wants it."""
    return state.name.replace("_", "0")


def make_tree() -> Path:
    """The Debian tree, of this machine's release."""
    words = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    suite = words["VERSION_CODENAME"].strip('"')
    tree = CACHE / f"root-{suite}"
    if (tree / "etc/hostname").exists():
        return tree
    CACHE.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(tree, ignore_errors=True)
    words_of_it = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={PACKAGES}", suite, str(tree), _mirror()]
    subprocess.run(words_of_it, check=True, stdin=subprocess.DEVNULL)
    for unit in UNUSED:
        (tree / "etc/systemd/system" / unit).unlink(missing_ok=True)
        (tree / "etc/systemd/system" / unit).symlink_to("/dev/null")
    journald = tree / "etc/systemd/journald.conf.d/box.conf"
    journald.parent.mkdir(parents=True, exist_ok=True)
    journald.write_text("[Journal]\nStorage=volatile\nForwardToConsole=no\n")
    # What is bound has to have a place: the tree may be read-only where it is bound.
    for path in ("opt/gpu-supervisor", "usr/local/lib/systemd/system"):
        (tree / path).mkdir(parents=True, exist_ok=True)
    (tree / "etc/hostname").write_text("box\n")  # Last: a tree that was cut short is made again.
    return tree


def install() -> Path:
    """The working tree as it is now, installed below a folder as for a package."""
    stage = CACHE / "stage"
    words = ["make", "-s", "-C", str(ROOT), "install-systemd", f"DESTDIR={stage}", f"PYTHON={PYTHON}"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout + done.stderr
    return stage


def _mirror() -> str:
    """Where this machine has its packages from."""
    words = ["apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()[0]


def _hierarchies() -> list[str]:
    """Where cgroup v2 is mounted, and the hierarchy of version 1 that systemd uses, if there is one."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    second = [words[1] for words in mounts if words[2] == "cgroup2"][:1]
    return second + [words[1] for words in mounts if words[2] == "cgroup" and "name=systemd" in words[3]][:1]
