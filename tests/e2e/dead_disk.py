"""
A disk that does not answer: whoever opens a file on it hangs in the kernel, and SIGKILL has no effect on him.

A file system in user space that takes requests and never answers one. Needs root and /dev/fuse.
"""

from __future__ import annotations

import ctypes
import os
import select
import struct
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

DEVICE = Path("/dev/fuse")
IS_POSSIBLE = os.geteuid() == 0 and DEVICE.exists()

_MNT_DETACH = 2
_INIT = 26
_REQUEST_MAX = 1 << 20
# Source: linux/fuse.h, struct fuse_out_header and struct fuse_init_out.
_ANSWER = struct.Struct("<IiQ")
_INIT_ANSWER = struct.Struct("<IIIIHHIIHHI28x")


class DeadDisk:
    """
    Mounted while it is entered; `release` lets everybody go who hangs on it.

    Args:
        folder: Where; made.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self._libc = ctypes.CDLL(None, use_errno=True)

    def __enter__(self) -> Self:
        self._device = os.open(DEVICE, os.O_RDWR)
        self._wake, self._waker = os.pipe()
        options = f"fd={self._device},rootmode=40000,user_id=0,group_id=0".encode()
        if self._libc.mount(b"dead", bytes(self.folder), b"fuse", 0, options) != 0:
            raise OSError(ctypes.get_errno(), "cannot mount a file system of the test")
        self._is_open = True
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
        self._libc.umount2(bytes(self.folder), _MNT_DETACH)

    def release(self) -> None:
        """The server is gone, so the kernel answers everybody with an error."""
        if self._is_open:
            self._is_open = False
            os.write(self._waker, b"x")
            self._thread.join()
            for fd in (self._device, self._wake, self._waker):
                os.close(fd)

    def _serve(self) -> None:
        while self._wake not in select.select([self._device, self._wake], [], [])[0]:
            request = os.read(self._device, _REQUEST_MAX)
            _, opcode, unique = struct.unpack_from("<IIQ", request)
            if opcode == _INIT:
                init = _INIT_ANSWER.pack(7, 31, 0, 0, 1, 1, 4096, 1, 1, 0, 0)
                os.write(self._device, _ANSWER.pack(_ANSWER.size + len(init), 0, unique) + init)
