"""
The process that talks to NVML, and the only one: a call may hang for ever, crash, or never be killable.

It imports nothing of ours, so that it runs by its path and starts fast. A line of JSON on standard input asks, lines on
standard output answer: one before each call of NVML, so that the other side knows where a silent prober hangs, and one
with the reading.
"""

from __future__ import annotations

import json
import os
import signal
import sys

import pynvml

TYPE_CHECKING = False  # The import of typing would cost a tenth of the start; type checkers know this name, too.
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

_STATES = {
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: "absent",
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "not_loaded",
    pynvml.NVML_ERROR_NO_PERMISSION: "no_permission",
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "mismatch",
}
_DRIVER_TRACES = ("/dev/nvidia0", "/proc/driver/nvidia")
_PCI_DEVICES = "/sys/bus/pci/devices"

# An older library or another version of the structure: the first form of the call may still be there.
_TRY_FIRST_VERSION = {
    pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
    pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
}
# The device is fine, its memory cannot be told: unified memory, or a library older than the question.
_UNKNOWN_MEMORY = {pynvml.NVML_ERROR_NOT_SUPPORTED, *_TRY_FIRST_VERSION}


class _CallError(Exception):
    """A call of NVML that did not work out; *code* is NVML's, None where the binding itself stumbled."""

    def __init__(self, call: str, code: int | None, words: str) -> None:
        super().__init__(f"{call}: {words}")
        self.code = code
        self.words = words


class _Library:
    """NVML, each call announced before it is made and every failure a _CallError."""

    def __init__(self, announce: Callable[[str], None]) -> None:
        self._announce = announce
        self._is_initialised = False

    def initialise(self) -> None:
        """Attach to the driver, unless that is done; after a failure the next request tries anew."""
        if not self._is_initialised:
            self.call("nvmlInit", None, pynvml.nvmlInit)
            self._is_initialised = True

    def count(self) -> int:
        """Number of devices that NVML attached to."""
        try:
            return int(self.call("nvmlDeviceGetCount", None, pynvml.nvmlDeviceGetCount))
        except _CallError as error:
            self._is_initialised = error.code != pynvml.NVML_ERROR_UNINITIALIZED
            raise

    def call(self, name: str, index: int | None, function: Callable[..., Any], *args: object) -> Any:
        """
        Make one call.

        Raises:
            _CallError: Whatever went wrong; some errors of the binding are not NVMLErrors.
        """
        self._announce(name if index is None else f"{name} {index}")
        try:
            return function(*args)
        except pynvml.NVMLError as error:
            raise _CallError(name, error.value, str(error)) from None
        except Exception as error:  # noqa: BLE001 - The binding lets AttributeError, NVMLLibraryMismatchError... out.
            raise _CallError(name, None, f"{type(error).__name__}: {error}") from None

    def text(self, name: str, index: int, function: Callable[..., Any], *args: object) -> str:
        """Make a call that answers a text, which need not be UTF-8."""
        # Below its decorator the binding returns the bytes as they are; decoding them strictly is the decorator's.
        answer = self.call(name, index, getattr(function, "__wrapped__", function), *args)
        return answer.decode(errors="replace") if isinstance(answer, bytes) else str(answer)


def read_inventory(library: _Library) -> dict[str, object]:
    """
    Ask NVML for everything that a reading holds.

    Returns:
        The reading of the protocol; *broken* in it names devices that have no readable identity.
    """
    try:
        library.initialise()
        count = library.count()
    except _CallError as error:
        return _make_reading(_STATES.get(error.code or 0, "error"), _describe(error))
    devices: list[dict[str, object]] = []
    broken: list[dict[str, object]] = []
    for index in range(count):
        try:
            devices.append(_read_device(library, index))
        except _CallError as error:
            broken.append({"index": index, "detail": str(error)})
    if broken and not devices:
        # Not an empty machine: its workers wait, they are not to fall back to the CPU.
        return _make_reading("error", f"no device can be read; device 0: {broken[0]['detail']}", broken=broken)
    return _make_reading("ok", "", devices, broken)


def _make_reading(
    state: str,
    detail: str,
    devices: Sequence[dict[str, object]] = (),
    broken: Sequence[dict[str, object]] = (),
) -> dict[str, object]:
    return {"state": state, "detail": detail, "devices": list(devices), "broken": list(broken)}


def _describe(error: _CallError) -> str:
    if error.code == pynvml.NVML_ERROR_LIBRARY_NOT_FOUND:
        return explain_absence(_DRIVER_TRACES)
    return str(error)


def explain_absence(driver_traces: Sequence[str]) -> str:
    """Why there is no NVML here: no driver at all, or a container that was given only a part of it."""
    if any(os.path.exists(trace) for trace in driver_traces):  # noqa: PTH110 - pathlib would cost time at the start.
        return "driver present, NVML not mounted: add NVIDIA_DRIVER_CAPABILITIES=utility"
    return "NVML (libnvidia-ml.so.1) is not installed"


def _read_device(library: _Library, index: int) -> dict[str, object]:
    """One device; a _CallError rises only where its identity cannot be read."""
    handle = library.call("nvmlDeviceGetHandleByIndex", index, pynvml.nvmlDeviceGetHandleByIndex, index)
    uuid = library.text("nvmlDeviceGetUUID", index, pynvml.nvmlDeviceGetUUID, handle)
    pci = _read_pci(library, index, handle)
    total, free, reason = _read_memory(library, index, handle)
    return {
        "uuid": uuid,
        "index": index,
        "name": _read_name(library, index, handle),
        "pci": pci,
        "numa": read_numa(_PCI_DEVICES, pci),
        "memory_total": total,
        "memory_free": free,
        "health": "lost" if reason else "ok",
        "reason": reason,
    }


def _read_name(library: _Library, index: int, handle: object) -> str:
    try:
        return library.text("nvmlDeviceGetName", index, pynvml.nvmlDeviceGetName, handle)
    except _CallError:
        return ""


def _read_pci(library: _Library, index: int, handle: object) -> str:
    """Its address as sysfs writes it, empty where NVML does not tell."""
    try:
        pci = library.call("nvmlDeviceGetPciInfo", index, pynvml.nvmlDeviceGetPciInfo, handle)
    except _CallError:
        return ""
    # The text has eight digits of domain; sysfs has four, more only for domains that need them. GPUs are function 0.
    return f"{pci.domain:04x}:{pci.bus:02x}:{pci.device:02x}.0"


def _read_memory(library: _Library, index: int, handle: object) -> tuple[int | None, int | None, str]:
    """Total and free bytes, or None for both, and what is wrong with the device, or an empty text."""
    try:
        try:
            memory = library.call(
                "nvmlDeviceGetMemoryInfo_v2", index, pynvml.nvmlDeviceGetMemoryInfo, handle, pynvml.nvmlMemory_v2
            )
        except _CallError as error:
            if error.code is not None and error.code not in _TRY_FIRST_VERSION:
                raise
            memory = library.call("nvmlDeviceGetMemoryInfo", index, pynvml.nvmlDeviceGetMemoryInfo, handle)
    except _CallError as error:
        # Anything but a device that cannot tell is a device to keep new workers from, be it for one reading only.
        is_fine = error.code is None or error.code in _UNKNOWN_MEMORY
        return None, None, "" if is_fine else str(error)
    return int(memory.total), int(memory.free), ""


def read_numa(pci_devices: str, pci: str) -> int | None:
    """NUMA node of a PCI device from sysfs; None where it is not known or the machine has only one."""
    try:
        with open(f"{pci_devices}/{pci}/numa_node", encoding="ascii") as file:  # noqa: PTH123 - As above.
            node = int(file.read())
    except (OSError, ValueError):
        return None
    return node if node >= 0 else None


def _answer(request: dict[str, Any], library: _Library) -> dict[str, object]:
    if request.get("ask") != "inventory":
        return {"error": f"cannot answer {request.get('ask')!r}: not a question of this prober"}
    return {"reading": read_inventory(library)}


def main() -> None:
    """Answer requests until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C at a terminal is the daemon's to handle.
    # The answers get a descriptor of their own: what a driver library prints must not end up among them.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    current = None

    def say(message: dict[str, object]) -> None:
        answers.write(json.dumps({"id": current, **message}) + "\n")
        answers.flush()

    library = _Library(lambda call: say({"calling": call}))
    try:
        for line in sys.stdin.buffer:
            current = None
            try:
                request = json.loads(line)
                current = request["id"]
            except (ValueError, TypeError, KeyError):
                say({"error": "not a request"})
                continue
            say(_answer(request, library))
    except BrokenPipeError:
        pass  # Nobody listens any more, which is the same as the end of input.
    # Neither nvmlShutdown nor the clean-up at exit: both would go through the driver once more, where a sick one keeps
    # us for ever. The kernel closes what is open.
    os._exit(0)


if __name__ == "__main__":
    main()
