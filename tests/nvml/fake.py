"""
A box of pretended GPUs: builds the fake NVML library, writes the file it lives by, reads the log it leaves.

Knows nothing of the supervisor; a test merges ``FakeBox.env`` into the environment of whatever is to see the GPUs.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import subprocess
import tempfile
import uuid as uuids
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

SOURCE = Path(__file__).with_name("fake_nvml.c")
LIBRARY = "libnvidia-ml.so.1"
CUDA_SOURCE = Path(__file__).with_name("fake_cuda.c")
CUDA_LIBRARY = "libcuda.so.1"
H100_BYTES = 85_520_809_984  # What an H100 80GB reports as its total.

DeviceName = int | str
"""A device in a rule: its index, its UUID, or ``*`` for all of them and for calls that concern none."""


@functools.cache
def build_library(source: Path = SOURCE, name: str = LIBRARY) -> Path:
    """
    Compile a fake library, once per content of its source.

    Returns:
        A file of that name.

    Raises:
        RuntimeError: There is no C compiler, or it refused the source; says what to install.
    """
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:16]
    cache = Path(tempfile.gettempdir(), f"gpu-supervisor-fake-nvml-{os.getuid()}")
    library = cache / digest / name
    if library.exists():
        return library
    library.parent.mkdir(parents=True, exist_ok=True)
    half = library.with_name(f"{name}.{os.getpid()}")
    flags = ["-std=gnu11", "-O1", "-Wall", "-Wextra", "-shared", "-fPIC", "-fvisibility=hidden"]
    command = ["cc", *flags, f"-Wl,-soname,{name}", "-o", str(half), str(source), "-pthread"]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise RuntimeError("the fake NVML needs a C compiler: apt-get install gcc libc6-dev") from None
    except subprocess.CalledProcessError as error:
        hint = "apt-get install gcc libc6-dev" if "stdio.h" in error.stderr or "dirent.h" in error.stderr else ""
        raise RuntimeError(f"cannot build the fake NVML: {hint}\n{error.stderr}") from None
    half.replace(library)  # Atomic: other test runs may build at the same time.
    return library


@functools.cache
def symbols() -> frozenset[str]:
    """Names of all functions that the fake exports."""
    return frozenset(re.findall(r"^EXPORT [^(]*?(nvml\w+)\(", SOURCE.read_text(), re.MULTILINE))


def symbol_of(call: str) -> str:
    """
    The symbol by which a rule names *call*, which may also be the binding's name without the version suffix.

    Raises:
        ValueError: The fake has no such function, so the rule would never act.
    """
    if call in {"nvmlInit", "nvmlInit_v2", "nvmlInitWithFlags"}:
        return "nvmlInit"
    if call in symbols():
        return call
    versions = [name for name in symbols() if re.fullmatch(rf"{re.escape(call)}_v\d", name)]
    if not versions:
        raise ValueError(f"the fake NVML has no {call}")
    return max(versions)  # As the binding does.


@dataclass(frozen=True, slots=True)
class FakeDevice:
    """
    One pretended GPU.

    Args:
        name: Bytes where it is not to be UTF-8.
        pci: As sysfs writes it.
        used_bytes: What is taken whatever the claims say.
        reserved_bytes: What the driver keeps; part of "used" for the first version of the memory call only.
        numa: -1 where the machine has no such thing.
        has_memory: False acts a GPU that shares the host's memory and does not support the question.
        compute: The compute mode: 0 shared, 2 nobody, 3 one process.
        mig: ``none`` acts a GPU that cannot be cut up.
        slots: Up to how many MIG instances it may have.
        recovery: What the driver wants done about it, 0 nothing.
        ecc: Uncorrected errors since the driver was loaded.
        remap_pending, remap_failed: Of its row remapper; pages_pending: of older cards.
        throttle: What slows its clocks down, by NVML's bits.
        repair: 1 a channel, 2 a TPC is to be repaired.
        fabric: How far it has joined the NVSwitches, 3 done; fabric_status: the code with which that ended. All eight
            but the last: -1 = not supported.
    """

    uuid: str
    name: str | bytes = "NVIDIA H100 80GB HBM3"
    pci: str = "0000:10:00.0"
    total_bytes: int = H100_BYTES
    used_bytes: int = 0
    reserved_bytes: int = 0
    numa: int = -1
    minor: int = 0
    has_memory: bool = True
    gpu_percent: int = 0
    memory_percent: int = 0
    celsius: int = 30
    milliwatts: int = 70_000
    limit_milliwatts: int = 700_000
    persistence: bool = True
    compute: int = 0
    mig: Literal["none", "off", "on"] = "off"
    slots: int = 7
    recovery: int = 0
    ecc: int = 0
    remap_pending: int = 0
    remap_failed: int = 0
    pages_pending: int = -1
    throttle: int = 0
    repair: int = -1
    fabric: int = -1
    fabric_status: int = 0

    def line(self, statement: str = "device") -> bytes:
        """This device as a statement of the state file."""
        name = self.name if isinstance(self.name, bytes) else self.name.encode()
        if b"\n" in name:
            raise ValueError("a line break does not fit into the state file")
        fields = (
            f"{statement} uuid={self.uuid} pci={self.pci} total={self.total_bytes} used={self.used_bytes}"
            f" reserved={self.reserved_bytes} numa={self.numa} minor={self.minor}"
            f" memory={'yes' if self.has_memory else 'no'} gpu_percent={self.gpu_percent}"
            f" memory_percent={self.memory_percent} celsius={self.celsius} milliwatts={self.milliwatts}"
            f" limit_milliwatts={self.limit_milliwatts}"
            f" persistence={self.persistence:d} compute={self.compute}"
            f" mig={self.mig} slots={self.slots} recovery={self.recovery} ecc={self.ecc}"
            f" remap_pending={self.remap_pending} remap_failed={self.remap_failed}"
            f" pages_pending={self.pages_pending} throttle={self.throttle} repair={self.repair}"
            f" fabric={self.fabric} fabric_status={self.fabric_status} name="
        )
        return fields.encode() + name


@dataclass(frozen=True, slots=True)
class FakeInstance:
    """
    One MIG instance of a pretended GPU.

    Args:
        device: What it shares with a device; only identity, name and memory are looked at.
        parent: UUID of its GPU.
        slot: Index by which NVML finds it.
        gi, ci: Its instance ids.
    """

    device: FakeDevice
    parent: str
    slot: int
    gi: int
    ci: int = 0

    @property
    def uuid(self) -> str:
        """Its identity, ``MIG-...``."""
        return self.device.uuid

    def line(self) -> bytes:
        """This instance as a statement of the state file."""
        return self.device.line(f"instance parent={self.parent} slot={self.slot} gi={self.gi} ci={self.ci}")


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the library; *device* is None where it concerns none, or one that is not known by index."""

    pid: int
    name: str
    device: int | None


class FakeBox:
    """
    A machine with pretended GPUs, to be changed while somebody looks at it.

    Every change is written at once and in one piece; the next call of the library sees it.

    Args:
        directory: An empty directory of the test's own.
        gpus: How many devices to begin with.
        live: Whether a process sees devices come and go; the real library shows those of its initialisation.
    """

    def __init__(self, directory: Path, gpus: int = 4, *, live: bool = False) -> None:
        self._directory = directory / "fake-nvml"
        self._libraries = self._directory / "lib"
        self._claims = self._directory / "claims"
        self._libraries.mkdir(parents=True)
        self._claims.mkdir()
        self._live = live
        self._serial = 0
        self._release_ms = 0
        self._init_code = 0
        self._rules: list[str] = []
        self._processes: list[str] = []
        self._links: list[str] = []
        self._nvlinks: dict[tuple[str, int], str] = {}
        self._down: set[tuple[str, int]] = set()
        self._events: list[str] = []
        self._cuda: list[str] = []
        self.devices: tuple[FakeDevice, ...] = ()
        self.instances: tuple[FakeInstance, ...] = ()
        self._link()
        for _ in range(gpus):
            self.add()
        self._write()

    @property
    def env(self) -> dict[str, str]:
        """What a process needs in its environment to see this box; also where its workers may write claims."""
        path = [str(self._libraries), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
        return {
            "LD_LIBRARY_PATH": ":".join(path),
            "FAKE_NVML_STATE": str(self._directory / "state"),
            "FAKE_NVML_LOG": str(self._directory / "log"),
            "FAKE_NVML_CLAIMS": str(self._claims),
            "FAKE_CUDA_STATE": str(self._directory / "cuda"),
        }

    @property
    def uuids(self) -> list[str]:
        """UUIDs of the devices, in index order."""
        return [device.uuid for device in self.devices]

    def add(self, *, at: int | None = None, **fields: Any) -> FakeDevice:
        """Put a device in, as the last one or at an index; *fields* are those of FakeDevice."""
        serial, self._serial = self._serial, self._serial + 1
        # Of its own for each box: whatever locks devices machine-wide must not tie tests to each other.
        identity = uuids.uuid5(uuids.NAMESPACE_URL, f"{self._directory}#{serial}")
        device = FakeDevice(uuid=f"GPU-{identity}", pci=f"0000:{0x10 + serial:02x}:00.0", minor=serial)
        device = replace(device, **fields)
        place = len(self.devices) if at is None else at
        self.devices = (*self.devices[:place], device, *self.devices[place:])
        self._write()
        return device

    def remove(self, uuid: str) -> None:
        """Pull a device out: whoever had it initialised finds it lost."""
        self._known(uuid)
        self.devices = tuple(device for device in self.devices if device.uuid != uuid)
        self._write()

    def change(self, uuid: str, **fields: Any) -> None:
        """Give a device other values."""
        self._known(uuid)
        self.devices = tuple(replace(each, **fields) if each.uuid == uuid else each for each in self.devices)
        self._write()

    def cut(self, uuid: str, slots: Sequence[int] = (), **fields: Any) -> list[str]:
        """
        Turn MIG on and put an instance into each of *slots*; *fields* are those of FakeDevice.

        Returns:
            UUIDs of the instances.
        """
        self._known(uuid)
        made = []
        for slot in slots:
            identity = uuids.uuid5(uuids.NAMESPACE_URL, f"{uuid}#{slot}")
            device = FakeDevice(
                uuid=f"MIG-{identity}", name="NVIDIA H100 80GB HBM3 MIG 1g.10gb", total_bytes=H100_BYTES // 8
            )
            made.append(FakeInstance(replace(device, **fields), uuid, slot, gi=slot + 7))
        self.instances = (*(one for one in self.instances if one.parent != uuid), *made)
        self.change(uuid, mig="on")
        return [instance.uuid for instance in made]

    def change_instance(self, uuid: str, **fields: Any) -> None:
        """Give a MIG instance other values."""
        self.instances = tuple(
            replace(each, device=replace(each.device, **fields)) if each.uuid == uuid else each
            for each in self.instances
        )
        self._write()

    def nvlink(self, uuid: str, *ends: str) -> None:
        """Give a device active NVLinks: to a UUID, a ``switch``, a GPU that is ``hidden`` here, or ``unknown``."""
        self._nvlinks |= {(uuid, number): end for number, end in enumerate(ends)}
        self._write()

    def nvlinks_down(self, uuid: str, *numbers: int) -> None:
        """Let these of a device's links be down, and the others active."""
        self._down = {(one, number) for one, number in self._down if one != uuid} | {(uuid, one) for one in numbers}
        self._write()

    def level(self, one: str, other: str, level: int) -> None:
        """Say what the nearest common ancestor of two devices is; 40 where nothing is said."""
        self._links.append(f"level one={one} other={other} level={level}")
        self._write()

    def xid(self, uuid: str, number: int, *, gi: int = 0xFFFFFFFF, ci: int = 0xFFFFFFFF) -> None:
        """Let a GPU report an error, to whoever waits for such by now."""
        self.event(uuid, 0x8, number, gi=gi, ci=ci)

    def event(self, uuid: str, kind: int, data: int = 0, *, gi: int = 0xFFFFFFFF, ci: int = 0xFFFFFFFF) -> None:
        """Let something else of NVML's events happen to a GPU."""
        self._known(uuid)
        self._events.append(f"event uuid={uuid} kind={kind} data={data} gi={gi} ci={ci}")
        self._write()

    def cuda_order(self, *uuids: str) -> None:
        """Let CUDA count the devices, GPUs or MIG instances, in this order; in PCI order where nothing is said."""
        self._cuda = [f"device {uuid}" for uuid in uuids]
        self._write()

    def cuda(self, what: str) -> None:
        """Let CUDA's initialising do something else: ``fail CODE``, ``hang``, ``crash``, or ``old``: no second UUID."""
        self._cuda.append(what)
        self._write()

    def cuda_absent(self) -> None:
        """Take CUDA's library away."""
        _replace(self._libraries / CUDA_LIBRARY, b"")

    def fail(self, call: str, device: DeviceName, code: int) -> None:
        """Let *call* answer *code*."""
        self._rule(f"fail {symbol_of(call)} {device} {code}")

    def drop_symbol(self, call: str) -> None:
        """Let the library be too old to have *call*."""
        self.fail(call, "*", 13)

    def delay(self, call: str, device: DeviceName, ms: int) -> None:
        """Let *call* take its time."""
        self._rule(f"delay {symbol_of(call)} {device} {ms}")

    def hang(self, call: str, device: DeviceName = "*") -> None:
        """Let *call* not return until heal(), deaf to every signal but SIGKILL."""
        self._rule(f"hang {symbol_of(call)} {device}")

    def crash(self, call: str, device: DeviceName = "*") -> None:
        """Let *call* end its process by SIGSEGV."""
        self._rule(f"crash {symbol_of(call)} {device}")

    def init_code(self, code: int) -> None:
        """Let initialising answer *code*."""
        self._init_code = code
        self._write()

    def absent(self) -> None:
        """Take the library away, from processes that have not loaded it yet."""
        _replace(self._libraries / LIBRARY, b"")  # No library, which also keeps the loader from a real one elsewhere.

    def heal(self) -> None:
        """Undo everything that fail, drop_symbol, delay, hang, crash, init_code, cuda and absent did."""
        self._link()
        self._rules.clear()
        self._cuda = [line for line in self._cuda if line.startswith("device ")]
        self._init_code = 0
        self._write()

    def claim(self, pid: int, uuid: str, size_bytes: int) -> None:
        """Let a living process hold memory of a device, for as long as it lives."""
        self._known(uuid)
        claim = self._claims / str(pid)
        lines = claim.read_text() if claim.exists() else ""
        _replace(claim, f"{lines}{uuid} {size_bytes}\n".encode())

    def release_after(self, ms: int) -> None:
        """Let memory of dead processes come back only *ms* after it was first asked for since; -1 is never."""
        self._release_ms = ms
        self._write()

    def list_process(
        self, uuid: str, pid: int, size_bytes: int | None, *, kind: Literal["compute", "graphics", "mps"] = "compute"
    ) -> None:
        """Put a process into the list of a device, whether it lives or not; None acts memory that cannot be told."""
        self._known(uuid)
        self._processes.append(
            f"process uuid={uuid} pid={pid} bytes={'unknown' if size_bytes is None else size_bytes} kind={kind}"
        )
        self._write()

    def forget_processes(self) -> None:
        """Take back what list_process has put into the lists."""
        self._processes.clear()
        self._write()

    def calls(self, name: str | None = None) -> list[Call]:
        """Every call so far, oldest first, or those of one symbol. A call that hangs or crashes is among them."""
        log = self._directory / "log"
        lines = log.read_text().splitlines() if log.exists() else []
        parts = (line.split() for line in lines)
        calls = [Call(int(pid), call, None if device == "-" else int(device)) for pid, call, device in parts]
        return [call for call in calls if name in {None, call.name}]

    def _known(self, uuid: str) -> None:
        if uuid not in [*self.uuids, *(instance.uuid for instance in self.instances)]:
            raise ValueError(f"no device {uuid}")

    def _link(self) -> None:
        for name, source in ((LIBRARY, SOURCE), (CUDA_LIBRARY, CUDA_SOURCE)):
            half = self._libraries / "new"
            half.symlink_to(build_library(source, name))
            half.replace(self._libraries / name)

    def _rule(self, line: str) -> None:
        self._rules.append(line)
        self._write()

    def _write(self) -> None:
        world = [
            f"init {self._init_code}",
            f"attach {'live' if self._live else 'frozen'}",
            f"claims {self._claims}",
            f"release {self._release_ms}",
            *self._rules,
            *self._processes,
            *self._links,
            *(
                f"nvlink uuid={uuid} number={number} to={'down' if (uuid, number) in self._down else end}"
                for (uuid, number), end in self._nvlinks.items()
            ),
            *self._events,
        ]
        lines = [line.encode() for line in world]
        lines += [device.line() for device in self.devices] + [instance.line() for instance in self.instances]
        _replace(self._directory / "state", b"\n".join(lines) + b"\n")
        is_ordered = any(line.startswith("device ") for line in self._cuda)
        cuda = self._cuda if is_ordered else [*(f"device {uuid}" for uuid in self.uuids), *self._cuda]
        _replace(self._directory / "cuda", "".join(f"{line}\n" for line in [*self._pci_order(), *cuda]).encode())

    def _pci_order(self) -> list[str]:
        """What CUDA counts under CUDA_DEVICE_ORDER=PCI_BUS_ID: of a GPU with MIG only its first instance."""
        first = {one.parent: one.uuid for one in sorted(self.instances, key=lambda one: -one.slot)}
        cut = {device.uuid for device in self.devices if device.mig == "on"}
        order = [first.get(uuid) if uuid in cut else uuid for uuid in self.uuids]
        return [f"pci {uuid}" for uuid in order if uuid is not None]


def _replace(path: Path, content: bytes) -> None:
    half = path.with_name(f"{path.name}.new")
    half.write_bytes(content)
    half.replace(path)
