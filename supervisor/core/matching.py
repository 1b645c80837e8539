"""Which devices a request means: by index, PCI id or UUID, by kind, by size. Decides nothing about who gets them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence

from supervisor.core.gpu_types import matches
from supervisor.core.inventory import Device, name_of
from supervisor.core.slices import Supply


class Names:
    """What a filter entry can mean among some devices."""

    def __init__(self, devices: Iterable[Device]) -> None:
        self._by_index: dict[int, list[Device]] = {}
        self._by_pci: dict[str, list[Device]] = {}
        self._instances: dict[str, list[Device]] = {}
        self._by_uuid = {device.uuid: device for device in devices}
        self._uuids = sorted(self._by_uuid)
        for device in self._by_uuid.values():
            if device.parent is not None:
                self._instances.setdefault(device.parent, []).append(device)
            # Instances have the index and the address of their GPU, and are meant where that is not in the pool.
            if device.parent is None or device.parent not in self._by_uuid:
                self._by_index.setdefault(device.index, []).append(device)
                self._by_pci.setdefault(device.pci, []).append(device)

    def find(self, token: str) -> tuple[Device, ...]:
        """Devices that an entry names: none, one, all instances of a GPU, or for a start of a UUID several."""
        if token.isdecimal():
            found = self._by_index.get(int(token), [])
        elif ":" in token:
            found = self._by_pci.get(_sysfs_pci(token), [])
        else:
            first = bisect_left(self._uuids, token)
            found = []
            while first < len(self._uuids) and self._uuids[first].startswith(token):
                found.append(self._by_uuid[self._uuids[first]])
                first += 1
        return tuple(found)

    def parts(self, device: Device) -> tuple[Device, ...]:
        """What can be handed out of a device: itself, or its instances where MIG has cut it up."""
        return tuple(self._instances.get(device.uuid, ())) if device.is_cut else (device,)


def find_devices(token: str, devices: Iterable[Device]) -> tuple[Device, ...]:
    """
    Devices that a filter entry names: an index as nvidia-smi shows it, a PCI id, or (the start of) a UUID.

    Returns:
        None, one, for a GPU that MIG has cut up its instances, or for an ambiguous start of a UUID several.
    """
    names = Names(devices)
    return tuple(part for device in names.find(token) for part in names.parts(device))


def _sysfs_pci(token: str) -> str:
    """A PCI id as sysfs writes it: the driver writes an 8-digit domain and capitals, people leave the domain out."""
    *domain, bus, device = token.lower().split(":")
    return f"{''.join(domain).lstrip('0').zfill(4)}:{bus}:{device}"


def allowed_devices(supply: Supply, tokens: tuple[str, ...] | None) -> tuple[Device, ...]:
    """Devices of the pool that the file as a whole may use, GPUs that are cut up among them."""
    if tokens is None:
        return supply.devices
    names = Names(supply.devices)
    named = {device.uuid for token in tokens for device in names.find(token)}
    return tuple(one for one in supply.devices if one.uuid in named or (one.parent in named and one.parent is not None))


def file_problem(supply: Supply, tokens: tuple[str, ...] | None) -> str:
    """What is wrong with the file-wide restriction, to be added to a refusal: the devices it does name are used."""
    problems: list[str] = []
    names = Names(supply.devices) if tokens and supply.devices else None
    for token in tokens if names and tokens else ():
        found = names.find(token) if names else ()
        if len(found) != 1 and not (found and (token.isdecimal() or ":" in token)):
            problems.append(f"; the file's gpus: {_unmatched(token, found, supply.outside)}")
    return "".join(problems)


def _unmatched(token: str, found: tuple[Device, ...], outside: Sequence[Device]) -> str:
    if found:
        return f'"{token}" names {len(found)} GPUs: {", ".join(device.uuid for device in found)}'
    if find_devices(token, outside):
        return f'GPU "{token}" is outside the pool'
    return f'there is no GPU "{token}" on this machine'


class Matching:
    """
    What requests mean among the devices to hand out. Each question is worked out once.

    Sets are integers with a bit for each device, in the order of *devices*.
    """

    def __init__(self, supply: Supply, devices: Sequence[Device]) -> None:
        self._supply = supply
        self._devices = devices
        self._position = {device.uuid: number for number, device in enumerate(devices)}
        self._named: dict[tuple[str, ...] | None, tuple[int, str]] = {None: (self._mask(devices), "")}
        self._kinds: dict[tuple[str, ...], int] = {}
        self._names: Names | None = None

    def named(self, tokens: tuple[str, ...] | None) -> tuple[int, str]:
        """Devices that a filter lets through, and what is wrong with the filter."""
        if tokens not in self._named:
            assert tokens is not None
            self._named[tokens] = self._read(tokens)
        return self._named[tokens]

    def of_kind(self, kinds: tuple[str, ...]) -> int:
        """Devices of one of these kinds; of any where there are none."""
        if not kinds:
            return (1 << len(self._devices)) - 1
        if kinds not in self._kinds:
            found = (one for one in self._devices if any(matches(kind, one) for kind in kinds))
            self._kinds[kinds] = self._mask(found)
        return self._kinds[kinds]

    def _mask(self, devices: Iterable[Device]) -> int:
        mask = 0
        for device in devices:
            if not device.is_cut:
                mask |= 1 << self._position[device.uuid]
        return mask

    def _read(self, tokens: tuple[str, ...]) -> tuple[int, str]:
        names = self._names = self._names or Names(self._devices)
        mask, seen, problems = 0, set[str](), []
        for token in tokens:
            found = names.find(token)
            if not found or (len(found) > 1 and not (token.isdecimal() or ":" in token)):
                problems.append(self._explain(token, found))
            again = next((one for one in found if one.uuid in seen), None)
            if again is not None:
                problems.append(f'"{token}" names {name_of(again)} a second time')
            elif len(found) == 1 and not names.parts(found[0]):
                problems.append(f"{name_of(found[0])} is cut up by MIG and has no instance")
            seen |= {one.uuid for one in found}
            mask |= self._mask(part for one in found for part in names.parts(one))
        return mask, "; ".join(problems)

    def _explain(self, token: str, found: tuple[Device, ...]) -> str:
        if not found and find_devices(token, self._supply.devices):
            return f'GPU "{token}" is not among the file\'s gpus'
        return _unmatched(token, found, self._supply.outside)
