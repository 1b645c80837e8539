"""
The process that asks CUDA which devices it shows and in which order: a process of its own, since cuInit may hang.

CUDA reads `CUDA_VISIBLE_DEVICES` and `CUDA_DEVICE_ORDER` once, as it is initialised. So this is started with the
environment that is asked about, says one thing, and ends. It must create no context and set nothing.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys

TYPE_CHECKING = False  # The import of typing would cost a tenth of the start; type checkers know this name, too.
if TYPE_CHECKING:
    from collections.abc import Callable

_LIBRARY = "libcuda.so.1"
_NO_DEVICE = 100
_UUID_BYTES = 16


class _CudaError(Exception):
    """A call of CUDA that did not work out, in words."""


class _Cuda:
    """CUDA's driver library, each call announced before it is made."""

    def __init__(self, announce: Callable[[str], None]) -> None:
        self._announce = announce
        announce(f"the loading of {_LIBRARY}")
        try:
            self._library = ctypes.CDLL(_LIBRARY)
        except OSError as error:
            raise _CudaError(str(error)) from None

    def read_order(self) -> list[str]:
        """UUIDs of what it shows, without the kind in front, in its order."""
        try:
            self._call("cuInit", 0)
        except _CudaError as error:
            if error.args[1:] == (_NO_DEVICE,):
                return []
            raise
        count = ctypes.c_int()
        self._call("cuDeviceGetCount", ctypes.byref(count))
        return [self._read_uuid(ordinal) for ordinal in range(count.value)]

    def _read_uuid(self, ordinal: int) -> str:
        device, uuid = ctypes.c_int(), (ctypes.c_ubyte * _UUID_BYTES)()
        self._call("cuDeviceGet", ctypes.byref(device), ordinal)
        try:
            self._call("cuDeviceGetUuid_v2", uuid, device)  # Of a MIG instance its own.
        except _CudaError:
            self._call("cuDeviceGetUuid", uuid, device)
        digits = bytes(uuid).hex()
        return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))

    def _call(self, name: str, *args: object) -> None:
        self._announce(name)
        function = getattr(self._library, name, None)
        if function is None:
            raise _CudaError(f"{name}: the library has no such function")
        if (code := int(function(*args))) != 0:
            raise _CudaError(f"{name}: {self._describe(code)}", code)

    def _describe(self, code: int) -> str:
        name = ctypes.c_char_p()
        self._library.cuGetErrorName(code, ctypes.byref(name))
        return f"error {code}" if name.value is None else name.value.decode(errors="replace")


def main() -> None:
    """Answer the one line of standard input."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C at a terminal is the daemon's to handle.
    # The answer gets a descriptor of its own: what a driver library prints must not end up in it.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(message: dict[str, object]) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    sys.stdin.readline()
    try:
        say({"uuids": _Cuda(lambda call: say({"calling": call})).read_order()})
    except _CudaError as error:
        say({"error": str(error.args[0])})
    except BrokenPipeError:
        pass  # Nobody listens any more.


if __name__ == "__main__":
    main()
