"""
The process that waits for what the driver tells by itself: XIDs and other events of NVML. It asks nothing else.

Beside the prober and as expendable: it blocks in the driver for as long as nothing happens, so polling never delays an
event and nobody wakes up for nothing. A line of JSON on standard input says which devices to leave alone; lines on
standard output say who is watched, and each event.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time

import pynvml

from supervisor.host.nvml import CallError, Library

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Any

WAIT_MS = 60_000
PAUSE_S = 1.0
"""After a wait that was over at once: what happens meanwhile waits, and nobody turns in a circle."""

WHOLE_GPU = 0xFFFFFFFF
KINDS = (
    pynvml.nvmlEventTypeXidCriticalError
    | pynvml.nvmlEventTypeDoubleBitEccError
    | getattr(pynvml, "nvmlEventTypeDramRetirementFailure", 0)
    | getattr(pynvml, "nvmlEventTypeFatalPoisonError", 0)
    | getattr(pynvml, "nvmlEventTypeGpuUnavailableError", 0)
    | getattr(pynvml, "nvmlEventTypeGpuRecoveryAction", 0)
)
"""What a device may be sick of. Others, such as changes of clocks, come many times a second."""


class Watch:
    """
    One event set, with every GPU that takes part.

    Args:
        library: Initialised.
        spared: Indices of devices that are not to be touched.
    """

    def __init__(self, library: Library, spared: Collection[int]) -> None:
        self._library = library
        self._uuids: dict[bytes, str] = {}
        self._set = library.call("nvmlEventSetCreate", None, pynvml.nvmlEventSetCreate)
        for index in range(library.count()):
            if index not in spared:
                self._register(index)

    @property
    def uuids(self) -> list[str]:
        """Who is watched."""
        return sorted(self._uuids.values())

    def _register(self, index: int) -> None:
        """One that cannot be registered leaves the others watched."""
        library = self._library
        try:
            handle = library.call("nvmlDeviceGetHandleByIndex", index, pynvml.nvmlDeviceGetHandleByIndex, index)
            uuid = library.text("nvmlDeviceGetUUID", index, pynvml.nvmlDeviceGetUUID, handle)
            name = "nvmlDeviceGetSupportedEventTypes"
            supported = int(library.call(name, index, pynvml.nvmlDeviceGetSupportedEventTypes, handle))
            if kinds := supported & KINDS:
                name = "nvmlDeviceRegisterEvents"
                library.call(name, index, pynvml.nvmlDeviceRegisterEvents, handle, kinds, self._set)
                self._uuids[bytes(handle)] = uuid  # A lost device cannot be asked for its name any more.
        except CallError:
            return

    def wait(self) -> dict[str, object] | None:
        """
        The next event, None where nothing has happened for a while.

        Raises:
            CallError: Nothing more is to be heard here.
        """
        try:
            data: Any = self._library.call("nvmlEventSetWait", None, pynvml.nvmlEventSetWait_v2, self._set, WAIT_MS)
        except CallError as error:
            if error.code == pynvml.NVML_ERROR_TIMEOUT:
                return None
            raise
        uuid = self._uuids.get(bytes(data.device))
        if uuid is None:
            return None
        whole = data.gpuInstanceId == WHOLE_GPU
        instance = None if whole else [int(data.gpuInstanceId), int(data.computeInstanceId)]
        return {"uuid": uuid, "kind": int(data.eventType), "number": int(data.eventData), "instance": instance}


def main() -> None:
    """Watch until the driver has nothing more to tell, or somebody ends this process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C at a terminal is the daemon's to handle.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(message: dict[str, object]) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    try:
        request = json.loads(sys.stdin.buffer.readline())
        library = Library(lambda _: None)
        library.initialise()
        watch = Watch(library, request.get("spare", ()))
        say({"watched": watch.uuids})
        while watch.uuids:
            began = time.monotonic()
            if (event := watch.wait()) is not None:
                say({"event": event})
            elif time.monotonic() - began < PAUSE_S:
                time.sleep(PAUSE_S)
    except CallError as error:
        say({"error": str(error)})
    except (BrokenPipeError, ValueError):
        pass
    # As the prober: nothing that goes through the driver once more.
    os._exit(0)


if __name__ == "__main__":
    main()
