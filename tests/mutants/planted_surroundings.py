"""Faults in what a worker finds around it."""

from __future__ import annotations

from tests.mutants.graft import Mutant

SURROUNDINGS = (
    Mutant(
        "pin: uuid forgotten",
        "environment.py",
        'return launch.recipe.pin == "uuid" or any(',
        "return any(",
    ),
    Mutant(
        "cores rounded down",
        "environment.py",
        "str(-(-cpu // 1000))",
        "str(cpu // 1000)",
    ),
    Mutant(
        "threads of the daemon's environment above the file's cores",
        "environment.py",
        '{"PYTHONUNBUFFERED": "1", **host.inherited, **account, **_thread_rows(launch), **table}',
        '{"PYTHONUNBUFFERED": "1", **_thread_rows(launch), **host.inherited, **account, **table}',
    ),
    Mutant(
        "a port to meet at for nobody",
        "environment.py",
        "if is_named or len(launch.slice) > 1 else {})",
        "if is_named else {})",
    ),
    Mutant(
        "a port to meet at for everybody",
        "environment.py",
        "if is_named or len(launch.slice) > 1 else {})",
        "if is_named or launch.slice else {})",
    ),
    Mutant(
        "near the first of its devices only",
        "environment.py",
        "return tuple(dict.fromkeys(Site(one.pci, one.numa) for one in hosts))",
        "return tuple(dict.fromkeys(Site(one.pci, one.numa) for one in hosts))[:1]",
    ),
    Mutant(
        "near for who did not ask",
        "environment.py",
        "    if not launch.recipe.near:\n",
        "    if not launch.slice:\n",
    ),
    Mutant(
        "the share of a fraction is told as a whole",
        "environment.py",
        "min((share.millis for share in launch.slice), default=0) / 1000:g",
        "min((1000 for share in launch.slice), default=0) / 1000:g",
    ),
    Mutant(
        "an instance by the index of its GPU",
        "environment.py",
        " or any(_device(moment, share).parent is not None for share in launch.slice)",
        "",
        by="tests/core/test_environment.py",
    ),
    Mutant(
        "a port is given to two",
        "ports.py",
        "if port not in given and port not in avoid",
        "if port not in avoid",
        part="host",
        by="tests/host/test_ports.py",
    ),
    Mutant(
        "controllers enabled while somebody is in the cgroup",
        "controllers.py",
        "            self._make_room(folder)\n",
        "",
        part="host",
        by="tests/host/test_controllers.py",
    ),
    Mutant(
        "the cgroup is left as it was used",
        "controllers.py",
        "            if self._has_moved:\n",
        "            if False:\n",
        part="host",
        by="tests/host/test_controllers.py",
    ),
    Mutant(
        "a node that is not known means every CPU",
        "locality.py",
        "    if number is None or number < 0:\n",
        "    if False:\n",
        part="host",
        by="tests/host/test_locality.py",
    ),
)
