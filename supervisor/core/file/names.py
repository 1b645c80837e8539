"""
Names of environment variables: ``$(NAME)`` in the file's texts, and which names are the supervisor's own.

Knows no worker and no values of the moment.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

VENDOR_NAMES = frozenset(
    {
        "NVIDIA_VISIBLE_DEVICES",
        "HIP_VISIBLE_DEVICES",
        "ROCR_VISIBLE_DEVICES",
        "GPU_DEVICE_ORDINAL",
        "ZE_AFFINITY_MASK",
        "ONEAPI_DEVICE_SELECTOR",
    }
)
"""Visibility variables other than CUDA's: hidden or removed, never a value to build on."""

_WORKER_NAMES = frozenset(
    {
        "WORKER",
        "SERVICE_NAME",
        "WORKER_INDEX",
        "WORKER_NUMBER",
        "WORKER_COUNT",
        "WORKER_GPU_COUNT",
        "WORKER_GPU_INDICES",
        "WORKER_GPU_UUIDS",
        "WORKER_GPU_SHARE",
        "WORKER_GPU_MEMORY_MIB",
        "WORKER_RESTARTS",
        "WORKER_INCARNATION",
    }
)

THREAD_NAMES = (
    "BENTOML_NUM_THREAD",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "RAYON_RS_NUM_CPUS",
    "TF_NUM_INTEROP_THREADS",
    "TF_NUM_INTRAOP_THREADS",
)
"""
What libraries read to learn how many threads they should have.

Source: the nine that BentoML sets, bentoml/_internal/runner/strategy.py, THREAD_ENVS.
"""

TABLE_NAMES = (
    VENDOR_NAMES
    | _WORKER_NAMES
    | {*THREAD_NAMES, "CUDA_VISIBLE_DEVICES", "PORT", "MASTER_PORT", "PYTHONUNBUFFERED"}
    | {"NOTIFY_SOCKET", "WATCHDOG_USEC", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID"}
)
"""The variables of the contract's table (its section 2) that this version provides or takes away."""

ACCOUNT_NAMES = frozenset({"HOME", "USER", "LOGNAME"})
"""Set from the user database for a worker with a `user`, unless the file sets them."""

LATE_NAMES = ACCOUNT_NAMES | {"MASTER_PORT", "NOTIFY_SOCKET"}
"""Variables whose values are known only where the process is started."""

MAIN_PID = "MAINPID"
"""What a stop command finds beside its worker's variables, as under systemd: the pid of the main process."""

LISTEN_NAMES = frozenset({"LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID"})
"""What a worker with `listen` finds, and nobody that is started for a probe; the last is its own doing."""

NOTIFY_NAMES = frozenset({"NOTIFY_SOCKET", "WATCHDOG_USEC"})
"""What a worker with `notify` finds, and nobody that it starts for a probe."""

_NOT_INHERITED = frozenset({"NOTIFY_SOCKET", "INVOCATION_ID", "JOURNAL_STREAM", "LOCAL_RANK", "RANK", "WORLD_SIZE"})

# A run of dollars before a name: each pair stands for one, and what is left over, if anything, asks for the value.
_REFERENCE = re.compile(r"(\$+)\(([A-Za-z_][A-Za-z0-9_]*)\)", re.ASCII)


def expand_names(text: str, names: Mapping[str, str]) -> str:
    """
    Replace ``$(NAME)`` by its value.

    Args:
        text: Any text; ``$$(NAME)`` stands for a literal ``$(NAME)``, and what is no NAME is left alone.
        names: The values. They are taken as they are: what a value contains is not expanded again.

    Returns:
        The text; a name that has no value stays as it is written.

    Source: https://kubernetes.io/docs/tasks/inject-data-application/define-interdependent-environment-variables/
    """

    def replacement(match: re.Match[str]) -> str:
        dollars, name = match.groups()
        pairs, asks = divmod(len(dollars), 2)
        literal = f"$({name})" if asks else f"({name})"
        return "$" * pairs + (names.get(name, literal) if asks else literal)

    return _REFERENCE.sub(replacement, text)


def literal(text: str) -> str:
    """The text that ``expand_names`` makes *text* of, whatever stands in it."""
    return _REFERENCE.sub(lambda match: match[0].replace("$", "$$"), text)


def names_in(text: str) -> tuple[str, ...]:
    """The names that ``expand_names`` would look up, in order, each once."""
    return tuple(dict.fromkeys(name for dollars, name in _REFERENCE.findall(text) if len(dollars) % 2))


def is_inherited(name: str) -> bool:
    """
    Whether a worker finds this variable of the daemon's own environment.

    Not what belongs to the daemon's own life (its notify socket, its journal, its rank), no vendor's GPUs, and not
    what a supervisor above this one said to it as a worker.
    """
    own = _NOT_INHERITED | VENDOR_NAMES | _WORKER_NAMES | {"CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"}
    return name not in own and not name.startswith(("WATCHDOG_", "LISTEN_"))


def reserved_hint(name: str) -> str:
    """What to do instead of setting this variable in the file; empty for one that anybody may set."""
    if name in VENDOR_NAMES or name in {"CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"}:
        return "leave it out; resources.gpu and resources.gpus choose the GPUs"
    if name in _WORKER_NAMES or name.startswith("WORKER_GPU_"):
        return "leave it out or use another name; the supervisor sets it for each worker"
    return ""
