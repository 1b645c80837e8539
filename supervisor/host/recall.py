"""
GPUs whose index says nothing, asked for by what they were known by before: their place on the bus, then their UUID.

Part of the prober's process. A GPU that was lost makes the look-up of its index an unknown error; by its name the
driver may say what it is.
"""

from __future__ import annotations

import pynvml

from supervisor.host.nvml import NOTHING_THERE, CallError, Library

TYPE_CHECKING = False  # As in the prober.
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    Known = Sequence[Any]
    """Index, UUID and PCI address of a GPU as it was read last."""

GONE = {pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_RESET_REQUIRED}


def find_handle(library: Library, one: Known) -> tuple[object | None, CallError | None]:
    """
    A known GPU's handle, or what the driver says instead.

    Returns:
        Neither, where it knows of no such GPU any more.
    """
    worst: CallError | None = None
    for name, function, token in _ways(one):
        try:
            return library.call(name, one[0], function, token), None
        except CallError as error:
            if error.code not in NOTHING_THERE and (worst is None or worst.code not in GONE):
                worst = error
    return None, worst


def _ways(one: Known) -> Iterator[tuple[str, Any, str]]:
    _, uuid, pci = one
    if pci:
        yield "nvmlDeviceGetHandleByPciBusId", pynvml.nvmlDeviceGetHandleByPciBusId, pci
    yield "nvmlDeviceGetHandleByUUID", pynvml.nvmlDeviceGetHandleByUUID, uuid


def settle_broken(
    library: Library, known: Sequence[Known], there: Sequence[str], broken: list[dict[str, Any]]
) -> Iterator[tuple[int, object, str]]:
    """
    Say of indices without an answer which GPUs they are.

    Args:
        library: Initialised.
        known: GPUs as they were read last.
        there: UUIDs that were read now.
        broken: Indices without a readable identity; those whose GPU is found out get its UUID and the error's code, and
            those that answer by their name are taken out.

    Yields:
        Index, handle and UUID of those that answer.
    """
    open_ = {int(one["index"]): one for one in broken if "code" in one}
    for one in sorted(known, key=lambda one: one[0] not in open_):
        if not open_:
            return
        if one[1] in there:
            continue
        handle, error = find_handle(library, one)
        if handle is None and error is None:
            continue
        entry = open_.pop(one[0] if one[0] in open_ else min(open_))
        if handle is not None:
            broken.remove(entry)
            yield int(entry["index"]), handle, one[1]
        elif error is not None:
            entry["uuid"] = one[1]
            if error.code in GONE and entry["code"] not in GONE:
                entry.update(code=error.code, detail=str(error))
