"""Why a request has no place, in numbers and names. Words only; decides nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from supervisor.core.bitsets import bits
from supervisor.core.file.problems import show_words
from supervisor.core.file.quantities import GIB, MIB
from supervisor.core.gpu_types import type_of
from supervisor.core.inventory import Device, name_of
from supervisor.core.ledger import Group, Ledger
from supervisor.core.slices import WHOLE, Supply
from supervisor.core.spec import Percent, Request

_NAMED_MAX = 8
"""A hundred names would not be read."""


def explain(request: Request, group: Group, ledger: Ledger, supply: Supply) -> str:
    """
    Why a request cannot be met.

    Args:
        request: What is asked for.
        group: The devices that it means.
        ledger: Who has them.
        supply: What there is at all.

    Returns:
        What is needed; how many devices match and have room; and of each that has none why.
    """
    if not supply.devices:
        why = f": {supply.detail}" if supply.detail else ""
        return f"needs {asked(request, for_none=True)}, there is none{why}"
    if request.gpu_type or request.gpu_memory is not None or _millis(request) < WHOLE:
        return _detailed(request, group, ledger, supply)
    return _plain(request, group, ledger, supply)


@dataclass(frozen=True, slots=True)
class Case:
    """
    A request and the devices there are for it, with what is the same for each of them. Holds while nothing is placed.

    Args:
        request: What is asked for.
        group: The devices that it means.
        ledger: Who has them.
        supply: What there is at all.
        sized: Devices that would have the memory if nobody were there.
        roomy: Devices on which one worker, or its part of one, would have its place.
    """

    request: Request
    group: Group
    ledger: Ledger
    supply: Supply
    sized: int
    roomy: int


def make_case(request: Request, group: Group, ledger: Ledger, supply: Supply) -> Case:
    """What verdicts on any number of devices are given from."""
    return Case(request, group, ledger, supply, ledger.sized(request.gpu_memory), _roomy(request, group, ledger))


def verdict(case: Case, at: int) -> str:
    """What is with the device at a position, for who asks for this: ``has room``, or why it has none."""
    return "has room" if case.roomy >> at & 1 else _why_not(case, at)


def _plain(request: Request, group: Group, ledger: Ledger, supply: Supply) -> str:
    """For whole GPUs of any kind and size: how many are free, and who has the others."""
    named = list(bits(group.all_of() if request.gpu == "all" else group.named))
    free = _roomy(request, group, ledger).bit_count()
    text = f"needs {asked(request)}, {free} of {len(named)} {'is' if free == 1 else 'are'} free"
    if holders := sorted({str(holder) for at in named for holder in ledger.holders[at]}):
        text += f"; reserved for {_listed(holders)}"
    sick: dict[str, list[str]] = {}
    for at in named:
        if _is_sick(ledger, at):
            sick.setdefault(str(ledger.devices[at].health), []).append(name_of(ledger.devices[at]))
    text += "".join(f"; {_listed(names)} {health}" for health, names in sick.items())
    elsewhere = [ledger.devices[at] for at in named if ledger.devices[at].uuid in supply.elsewhere]
    text += "".join(f"; {name_of(device)} {supply.elsewhere[device.uuid]}" for device in elsewhere)
    if cut := [name_of(device) for device in ledger.devices if device.is_cut and request.gpus is None]:
        text += f"; {_listed(cut)} cut up by MIG"
    return text + _about_instances(request, named, ledger)


def _detailed(request: Request, group: Group, ledger: Ledger, supply: Supply) -> str:
    """For a kind, a size or a part: which devices match, which of them have room, and what is with the others."""
    every = [at for at, device in enumerate(ledger.devices) if not device.is_cut]
    matching = [at for at in every if group.named >> at & 1]
    text = f"needs {asked(request)}; {len(matching)} of {len(every)} match"
    if not matching:
        return f"{text}; here are {_present(ledger.devices[at] for at in every)}"
    case = make_case(request, group, ledger, supply)
    roomy = case.roomy.bit_count()
    text += f"; {roomy} {'has' if roomy == 1 else 'have'} room"
    reasons: dict[str, list[str]] = {}
    for at in every:
        reasons.setdefault(verdict(case, at), []).append(name_of(ledger.devices[at]))
    told = [_told(names, why) for why, names in reasons.items()]
    more = f"; and {len(told) - _NAMED_MAX} more reasons" if len(told) > _NAMED_MAX else ""
    return f"{text}: {'; '.join(told[:_NAMED_MAX])}{more}{_about_instances(request, matching, ledger)}"


def _why_not(case: Case, at: int) -> str:
    """What is with one device."""
    request, ledger = case.request, case.ledger
    device = ledger.devices[at]
    if not case.group.named >> at & 1:
        return "is not one of these" if request.gpus is not None else f"is {_kind(device)}"
    if _is_sick(ledger, at):
        return str(device.health)
    if device.uuid in case.supply.elsewhere:
        return case.supply.elsewhere[device.uuid]
    if not case.sized >> at & 1:
        return (
            f"has {_gib(max(0, ledger.rooms[at] or 0))} of {_gib(device.memory_total_bytes or 0)} beside the headroom"
        )
    holders = f" ({_listed(sorted(str(one) for one in ledger.holders[at]))})"
    if ledger.taken[at] + min(_millis(request), WHOLE) > WHOLE:
        left = WHOLE - ledger.taken[at]
        return (f"has {left / WHOLE:g} left" if left else "is given away") + holders
    declared, room = ledger.declared[at], ledger.rooms[at] or 0
    return f"has {_gib(max(0, room - declared))} left beside {_gib(declared)} declared{holders}"


def _told(names: list[str], why: str) -> str:
    verb, _, rest = why.partition(" ")
    plural = {"has": "have", "is": "are"}.get(verb, verb) if len(names) > 1 else verb
    return f"{_listed(names)} {plural} {rest}".rstrip()


def _roomy(request: Request, group: Group, ledger: Ledger) -> int:
    """Devices on which one worker, or its part of one, would have its place."""
    if _millis(request) >= WHOLE:
        return ledger.empty & group.eligible & ~_unjoined(request, ledger)
    fitting = ((at, WHOLE - ledger.taken[at]) for at in bits(group.eligible))
    roomy = (at for at, left in fitting if left >= _millis(request) and ledger.has_room(request.gpu_memory, at))
    return sum(1 << at for at in roomy)


def _unjoined(request: Request, ledger: Ledger) -> int:
    return ledger.instances if request.gpu != "all" and request.gpu > WHOLE else 0


def _about_instances(request: Request, named: Iterable[int], ledger: Ledger) -> str:
    """Why instances of MIG do not count for who needs several devices."""
    several = request.gpu == "all" or request.gpu > WHOLE
    if several and any(ledger.instances >> at & 1 for at in named):
        return "; a process can use one MIG instance, and no GPU beside it"
    return ""


def _is_sick(ledger: Ledger, at: int) -> bool:
    return not ledger.devices[at].is_usable


def _millis(request: Request) -> int:
    return WHOLE if request.gpu == "all" else request.gpu


def asked(request: Request, *, for_none: bool = False) -> str:
    """What a request is, in words: ``2 GPUs of type nvidia-l4 with 20 GiB free``; *for_none*: only how many."""
    if request.gpu == "all":
        text = "1 GPU" if for_none else "all GPUs"
    elif request.gpu < WHOLE:
        text = f"{request.gpu / WHOLE:g} of a GPU"
    else:
        text = "1 GPU" if request.gpu == WHOLE else f"{request.gpu // WHOLE} GPUs"
    if request.gpu_type and not for_none:
        text += f" of type {show_words(request.gpu_type)}"
    if request.gpu_memory is None or for_none:
        return text
    memory = request.gpu_memory
    return f"{text} with {memory if isinstance(memory, Percent) else _gib(memory)} free"


def _present(devices: Iterable[Device]) -> str:
    """The kinds there are, so that the next try hits."""
    kinds: dict[str, list[str]] = {}
    for device in devices:
        kinds.setdefault(_kind(device), []).append(name_of(device))
    return "; ".join(f"{kind} ({_listed(names)})" for kind, names in kinds.items())


def _kind(device: Device) -> str:
    return type_of(device) or device.name


def _listed(names: list[str]) -> str:
    """Names, ``GPU 0, 1, 2`` for those of GPUs, and not too many."""
    rest = f" and {len(names) - _NAMED_MAX} more" if len(names) > _NAMED_MAX else ""
    names = names[:_NAMED_MAX]
    if len(names) > 1 and all(name.startswith("GPU ") for name in names):
        names = [names[0], *(name.removeprefix("GPU ") for name in names[1:])]
    return ", ".join(names) + rest


def _gib(amount: int) -> str:
    """Bytes as people count them, to a tenth, never more than there is."""
    if abs(amount) < GIB:
        return f"{amount // MIB} MiB"
    return f"{amount * 10 // GIB / 10:g} GiB"
