"""
Owns the calls of NVML: each announced before it is made, every failure one kind of error.

Part of the prober's process; what the answers mean is the business of who asks.
"""

from __future__ import annotations

import pynvml

TYPE_CHECKING = False  # The import of typing would cost a tenth of the start; type checkers know this name, too.
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

# An older library or another version of the structure: the first form of the call may still be there.
TRY_OLDER = {
    pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
    pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
}
# The device does not know the question, or the library does not: nothing is wrong with either.
NO_ANSWER = {pynvml.NVML_ERROR_NOT_SUPPORTED, *TRY_OLDER}
# No such link, no such place for a MIG instance.
NOTHING_THERE = {pynvml.NVML_ERROR_INVALID_ARGUMENT, pynvml.NVML_ERROR_NOT_FOUND}


class CallError(Exception):
    """A call of NVML that did not work out; *code* is NVML's, None where the binding itself stumbled."""

    def __init__(self, call: str, code: int | None, words: str) -> None:
        super().__init__(f"{call}: {words}")
        self.code = code
        self.words = words

    @property
    def is_no_answer(self) -> bool:
        """Whether the question is one that this device, library or binding does not know."""
        return self.code is None or self.code in NO_ANSWER


class Library:
    """NVML, each call announced before it is made and every failure a CallError."""

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
        except CallError as error:
            self._is_initialised = error.code != pynvml.NVML_ERROR_UNINITIALIZED
            raise

    def call(self, name: str, index: int | None, function: Callable[..., Any], *args: object) -> Any:
        """
        Make one call.

        Raises:
            CallError: Whatever went wrong; some errors of the binding are not NVMLErrors.
        """
        self._announce(name if index is None else f"{name} {index}")
        try:
            return function(*args)
        except pynvml.NVMLError as error:
            raise CallError(name, error.value, str(error)) from None
        except Exception as error:  # noqa: BLE001 - The binding lets AttributeError, NVMLLibraryMismatchError... out.
            raise CallError(name, None, f"{type(error).__name__}: {error}") from None

    def text(self, name: str, index: int | None, function: Callable[..., Any], *args: object) -> str:
        """Make a call that answers a text, which need not be UTF-8."""
        # Below its decorator the binding returns the bytes as they are; decoding them strictly is the decorator's.
        answer = self.call(name, index, getattr(function, "__wrapped__", function), *args)
        return answer.decode(errors="replace") if isinstance(answer, bytes) else str(answer)

    def identity(self, index: int, handle: object) -> str:
        """
        A device's identity.

        Raises:
            CallError: There is none to be had, or it is none that could be handed on in a list.
        """
        name = "nvmlDeviceGetUUID"
        text = self.text(name, index, pynvml.nvmlDeviceGetUUID, handle)
        if not text.isascii() or not text.isprintable() or not text or {" ", ","} & set(text):
            raise CallError(name, None, f"{text!r} is no identity")
        return text


def sysfs_pci(pci: Any) -> str:
    """Address of a PCI device as sysfs writes it."""
    # The text has eight digits of domain; sysfs has four, more only for domains that need them. GPUs are function 0.
    return f"{pci.domain:04x}:{pci.bus:02x}:{pci.device:02x}.0"
