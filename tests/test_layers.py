"""Who imports whom: only downwards, in no circle; and what can do harm has one owner."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "supervisor"
FILES = sorted(PACKAGE.rglob("*.py"))

LAYERS: Mapping[str, int] = {
    "errors": 0,
    "rendezvous": 1,
    "core": 1,
    "front": 2,
    "host": 2,
    "daemon": 3,
    "cli": 4,
    "__main__": 5,
}
"""Parts of the package, from the ground up."""

SIBLINGS = {"rendezvous": {"core"}, "core": {"rendezvous"}, "front": {"host"}, "host": {"front"}}
"""Parts of the same layer that do not know of each other."""

OWNERS: Mapping[str, set[str]] = {
    # Together the prober, a process of its own.
    "pynvml": {
        "host/checkup.py",
        "host/links.py",
        "host/nvml.py",
        "host/prober.py",
        "host/recall.py",
        "host/sensors.py",
        "host/settings.py",
        "host/vitals.py",
        "host/watcher.py",
    },
    "yaml": {"host/yaml_tree.py"},
    "psutil": {"host/machine.py"},
    "pwd": {"host/accounts.py"},
    "grp": {"host/accounts.py"},
    # The keeper and the shims are processes of their own, with nothing but the standard library.
    "time": {"cli/commands.py", "cli/screen.py", "host/clock.py", "host/keeper.py", "host/shim.py", "host/watcher.py"},
    # CUDA's library is loaded in a process of its own, as NVML's is.
    "ctypes": {"host/cuda.py", "host/kernel.py", "host/vitals.py"},
    "aiohttp": {
        *("daemon/door.py", "daemon/loop.py", "daemon/web.py", "host/hooks.py"),
        *(f"front/{name}.py" for name in ("api", "callers", "gate", "guests", "problem", "stream", "web_page")),
    },
    "click": {
        *("cli/commands.py", "cli/complete.py", "cli/devices.py", "cli/grammar.py", "cli/operate.py", "cli/outcome.py"),
        "cli/schema.py",
    },
    "random": set(),
    "secrets": set(),
    "uuid": set(),
    # For commands that a person waits for, never the daemon.
    "subprocess": {"host/systemctl.py"},
    "multiprocessing": set(),
    "os.fork": {"host/init.py", "host/keeper.py"},
    "os.forkpty": set(),
    "os.kill": {"host/init.py", "host/keeper.py", "host/peer.py", "host/shim.py"},
    "os.killpg": {"host/shim.py"},
    "signal.pidfd_send_signal": {"host/leftovers.py", "host/peer.py", "host/tree.py"},
    "os.posix_spawn": {"host/peer.py", "host/spawn.py"},
    "os.posix_spawnp": set(),
    "os.system": set(),
    "os.popen": set(),
    "os.execv": set(),
    "os.execve": set(),
    "os.execvp": set(),
    "os.execvpe": set(),
    "signal.signal": {
        "cli/screen.py",
        "host/cuda.py",
        "host/keeper.py",
        "host/prober.py",
        "host/shim.py",
        "host/watcher.py",
    },
}
"""Modules and functions, and the only files that may use them."""

BARE = {f"host/{name}.py" for name in ("attributes", "keeper", "kernel", "leaf", "shim", "spawn", "tree", "wire")}
"""Files of the keeper's and the shims' processes, which start without site-packages."""

EFFECTS = {
    *("asyncio", "concurrent", "ctypes", "datetime", "fcntl", "glob", "http", "io", "locale", "logging", "mmap"),
    *(
        "multiprocessing",
        "os",
        "pathlib.Path",
        "platform",
        "grp",
        "pwd",
        "queue",
        "random",
        "resource",
        "sched",
        "secrets",
    ),
    *("select", "selectors", "shutil", "socket", "ssl", "subprocess", "sys", "tempfile", "threading", "time"),
    *("urllib", "uuid", "warnings", "weakref"),
}
"""What the core, which only decides, has no use for."""

CORE = [path for path in FILES if PACKAGE / "core" in path.parents]


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def code_of(path: Path) -> Iterator[ast.AST]:
    """Every node but those that only type checkers see."""
    waiting: list[ast.AST] = [tree_of(path)]
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            waiting += node.orelse
        else:
            waiting += ast.iter_child_nodes(node)


@cache
def imports_of(path: Path) -> frozenset[str]:
    """Dotted names of what a file imports, those in functions too: modules, and names out of modules."""
    found: set[str] = set()
    for node in code_of(path):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import says less than an absolute one"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


@cache
def uses_of(path: Path) -> frozenset[str]:
    """Dotted names that a file imports, and those that it writes out, such as ``os.fork``."""
    written = {ast.unparse(node) for node in code_of(path) if isinstance(node, ast.Attribute)}
    return imports_of(path) | written


def own_modules(path: Path) -> set[str]:
    """Modules of the package that a file imports, as names of files."""
    found = set()
    for dotted in imports_of(path):
        parts = dotted.split(".")
        if parts[0] != "supervisor":
            continue
        for end in (len(parts), len(parts) - 1):
            if end > 1 and (file := PACKAGE.joinpath(*parts[1:end]).with_suffix(".py")).exists():
                found.add(name_of(file))
                break
    return found


def part_of(name: str) -> str:
    return name.split("/", maxsplit=1)[0].removesuffix(".py")


def layer_of(name: str) -> int:
    return LAYERS.get(part_of(name), 0)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_point_down(path: Path) -> None:
    """`__main__ -> cli -> daemon -> front, host -> core -> errors`; front and host never meet."""
    name = name_of(path)

    for imported in own_modules(path):
        assert layer_of(imported) <= layer_of(name), f"{name} imports {imported}"
        assert part_of(imported) not in SIBLINGS.get(part_of(name), set()), f"{name} imports {imported}"


def test_imports_run_in_no_circle() -> None:
    """Within a layer too."""
    graph = {name_of(path): own_modules(path) for path in FILES}

    try:
        order = tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))
    assert set(order) == set(graph)


@pytest.mark.parametrize("path", CORE, ids=name_of)
def test_the_core_knows_nothing_but_values(path: Path) -> None:
    """Itself, the errors, pydantic, and what of the standard library has no effects."""
    for dotted in imports_of(path):
        top = dotted.split(".")[0]
        assert (
            dotted.startswith(("supervisor.core", "supervisor.errors"))
            or top == "pydantic"
            or (top in sys.stdlib_module_names or top == "__future__")
        ), f"{path.name} imports {dotted}"
        assert not {top, dotted} & EFFECTS, f"{path.name} imports {dotted}"


@pytest.mark.parametrize("path", CORE, ids=name_of)
def test_the_core_does_nothing(path: Path) -> None:
    """It opens, prints, asks and waits for nothing; and takes nothing that differs from one run to the next."""
    called = {ast.unparse(node.func) for node in code_of(path) if isinstance(node, ast.Call)}
    waits = [node for node in code_of(path) if isinstance(node, ast.AsyncFunctionDef | ast.Await)]

    assert not called & {"open", "print", "input", "breakpoint", "exec", "eval", "__import__", "id", "hash"}
    assert not waits


@pytest.mark.parametrize("what", OWNERS)
def test_what_can_do_harm_has_its_owners(what: str) -> None:
    """Processes, signals, time, the driver, YAML: each with its deadlines and its reasons in one place."""
    users = {name_of(path) for path in FILES if any(use == what or use.startswith(f"{what}.") for use in uses_of(path))}

    assert users <= OWNERS[what]


@pytest.mark.parametrize("name", sorted(BARE))
def test_the_keeper_and_its_shims_need_nothing_but_the_standard_library(name: str) -> None:
    """They are run with `-I -S`, and a module that comes with another one costs memory in every shim."""
    path = PACKAGE / name

    foreign = {dotted for dotted in imports_of(path) if dotted.split(".")[0] not in sys.stdlib_module_names}

    assert {dotted for dotted in foreign if not dotted.startswith(("supervisor.host", "__future__"))} == set()
    assert own_modules(path) <= BARE


def test_nothing_is_printed_past_the_log() -> None:
    """Output goes through click, rich or the log, each of which knows where to."""
    printing = {
        name_of(path)
        for path in FILES
        for node in code_of(path)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "print"
    }

    assert printing == set()
