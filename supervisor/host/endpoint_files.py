"""
Owns the files in which ready workers stand: each replaced in one piece, so that nobody reads half of one.

Must not know what stands in them, nor wait in the loop: a file may lie on a disk that does not answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

MODE = 0o644


def write_file(path: str, text: str) -> bool:
    """
    Put a text in place of what a file holds, unless it holds that already. What a crash of the machine leaves is old.

    Returns:
        Whether it was another one.

    Raises:
        OSError: It cannot be written; the old one is still there.
    """
    content = text.encode()
    with contextlib.suppress(OSError):
        if _read(path) == content:
            return False
    half = f"{path}.{os.getpid()}.new"
    descriptor = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, MODE)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123 - No path.
            os.fchmod(descriptor, MODE)  # Whatever the umask: those who read it are others.
            file.write(content)
        os.rename(half, path)  # noqa: PTH104 - Bare names all through.
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(half)  # noqa: PTH108
        raise
    return True


def _read(path: str) -> bytes:
    with open(path, "rb") as file:  # noqa: PTH123
        return file.read()


async def in_thread(work: Callable[[], T]) -> T:
    """Run something in a thread that does not hold up the end of the process, should it never come back."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def take(result: T) -> None:
        if not done.done():
            done.set_result(result)

    def run() -> None:
        result = work()
        with contextlib.suppress(RuntimeError):  # The loop is gone.
            loop.call_soon_threadsafe(take, result)

    threading.Thread(target=run, name="write-endpoints", daemon=True).start()
    return await done
