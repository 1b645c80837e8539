"""A prober as a process of its own, and what it says."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from typing import Any

from tests.nvml.fake import FakeBox

DEADLINE_S = 20.0


class Asked:
    """A prober, and the lines it has said."""

    def __init__(self, box: FakeBox, *, command: tuple[str, ...] = ("-m", "supervisor.host.prober")) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *command],
            env={**os.environ, **box.env},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self.calling: list[str] = []
        self._rest = b""

    def tell(self, line: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + b"\n")
        self.process.stdin.flush()

    def hear(self) -> dict[str, Any] | None:
        """The next message, None at the end of its output."""
        assert self.process.stdout is not None
        due = time.monotonic() + DEADLINE_S
        while b"\n" not in self._rest:
            ready, _, _ = select.select([self.process.stdout], [], [], due - time.monotonic())
            assert ready, f"silent after {self.calling}"
            chunk = os.read(self.process.stdout.fileno(), 65536)
            if not chunk:
                return None
            self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message

    def read(self, number: int = 1, *, checkup: bool = False) -> dict[str, Any]:
        """Ask for an inventory; what it announces meanwhile is in `calling`."""
        self.tell(json.dumps({"id": number, "ask": "inventory", "checkup": checkup}).encode())
        self.calling.clear()
        while (message := self.hear()) is not None:
            assert message["id"] == number
            if "reading" in message:
                reading: dict[str, Any] = message["reading"]
                return reading
            self.calling.append(message["calling"])
        raise AssertionError(f"it ended in {self.calling}")

    def hear_until(self, calling: str) -> None:
        """Listen until it announces this call."""
        while (message := self.hear()) is not None:
            if message.get("calling") == calling:
                return
        raise AssertionError(f"it ended before {calling}")

    def end(self) -> tuple[int, bytes]:
        """Close its input; its exit status and what it complained."""
        _, complaints = self.process.communicate(timeout=DEADLINE_S)
        return self.process.returncode, complaints

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
