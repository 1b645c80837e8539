"""
Machines, files and plans written in one line each.

A machine is its GPUs in PCI order: ``4`` or ``2xh100 l4 t4! h100m3 a10g*``, with ``/`` where the next NUMA node begins.
``!`` is lost, ``*`` another daemon's, ``m3`` cut up by MIG into 3 instances. Links follow: ``nv:01`` by NVLink,
``sw:23`` beside each other on a switch. ``only:1,0`` is the pool, in its order.

A file is its services: ``a: .5 x2; b: 2 20GiB @0,3 kind=nvidia-l4 spread cpu``: GPUs of one worker, how many
workers, memory, filter, kind, and so on. ``a: [@0] [.5 @1,2]`` lists workers one by one.

A plan is the slices in order: ``0`` ``2,3``, ``0.1`` for an instance, ``cpu`` on the CPU, ``-`` without a place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import combinations
from typing import Any

from supervisor.core.counts import count_workers
from supervisor.core.inventory import Device, Health, Link
from supervisor.core.plan import Placement, Supply, make_plan
from supervisor.core.spec import Spec, parse_spec

GIB = 2**30
KINDS = {
    "h100": ("NVIDIA H100 80GB HBM3", 80),
    "h200": ("NVIDIA H200", 140),
    "a100": ("NVIDIA A100-SXM4-40GB", 40),
    "a100x": ("NVIDIA A100-SXM4-80GB", 80),
    "a10": ("NVIDIA A10", 22.5),
    "a10g": ("NVIDIA A10G", 22.5),
    "l4": ("NVIDIA L4", 22.5),
    "l40": ("NVIDIA L40", 45),
    "l40s": ("NVIDIA L40S", 45),
    "t4": ("Tesla T4", 15),
    "p4": ("Tesla P4", 7.5),
    "p40": ("Tesla P40", 22.5),
    "v100": ("Tesla V100-SXM2-32GB", 32),
    "b200": ("NVIDIA B200", 180),
    "gb200": ("NVIDIA GB200", 186),
    "gh200": ("NVIDIA GH200 480GB", 96),
    "rtx": ("NVIDIA GeForce RTX 4090", 24),
    "gb10": ("NVIDIA GB10", None),
}
_GPUS = re.compile(r"(?:(\d+)x)?([a-z]+[0-9]+[a-z]*?|rtx)(m\d+)?([!*])?")


# ---- machines -------------------------------------------------------------------------------------------------------


def machine(text: str) -> Supply:
    """What a line says is in a box."""
    devices: list[Device] = []
    elsewhere: dict[str, str] = {}
    links: list[Link] = []
    pool: list[str] = []
    node = index = 0
    for word in text.split():
        name, _, rest = word.partition(":")
        if word == "/":
            node += 1
        elif name in {"nv", "sw"}:
            for group in rest.split(","):
                links += [Link(f"GPU-{a}", f"GPU-{b}", 4 if name == "nv" else 0, 10) for a, b in combinations(group, 2)]
        elif name == "only":
            pool = rest.split(",")
        else:
            for device, is_held in gpus(f"{word}xh100" if word.isdecimal() else word, index, node):
                devices.append(device)
                index = device.index + 1
                if is_held:
                    elsewhere[device.uuid] = "is held by pid 7 of ann"
    inside = [one for wish in pool for one in devices if str(one.index) == wish] if pool else devices
    outside = tuple(one for one in devices if one not in inside)
    return Supply(tuple(inside), True, "" if devices else "no library", outside, elsewhere, tuple(links))


def gpus(word: str, index: int, node: int) -> Iterator[tuple[Device, bool]]:
    match = _GPUS.fullmatch(word)
    assert match is not None, word
    count, kind, cut, flag = match.groups()
    name, size = KINDS[kind]
    total = None if size is None else int(size * GIB)
    for at in range(index, index + int(count or 1)):
        health = Health.LOST if flag == "!" else Health.OK
        pci, uuid = f"0000:{at + 16:02x}:00.0", f"GPU-{at}"
        yield Device(uuid, at, name, pci, node, total, total, health, is_cut=cut is not None), flag == "*"
        for part in range(int(cut[1:]) if cut else 0):
            size_of = int(9.75 * GIB) * (1 if part else 2)  # The first is twice the others.
            profile = f"{name} MIG {1 if part else 2}g"
            yield Device(f"MIG-{at}.{part}", at, profile, pci, node, size_of, size_of, parent=uuid), False


# ---- files ----------------------------------------------------------------------------------------------------------


def file(text: str) -> Spec:
    """What a line says is in a file; the whole line may end in ``only 0,1`` for the file-wide filter."""
    text, _, only = text.partition(" only ")
    services = dict(_service(one) for one in text.split(";"))
    document: dict[str, Any] = {"services": services}
    if only:
        document["gpus"] = _tokens(only.strip())
    return parse_spec(document, base_dir="/srv")


def _service(text: str) -> tuple[str, dict[str, Any]]:
    name, _, words = text.partition(":")
    service: dict[str, Any] = {"command": "serve"}
    if "[" in words:
        service["workers"] = [_wish(one.split(), {}) for one in re.findall(r"\[(.*?)\]", words)]
        words = re.sub(r"\[.*?\]", "", words)
    resources = _wish(words.split(), service)
    return name.strip(), service | {"resources": resources}


def _wish(words: list[str], service: dict[str, Any]) -> dict[str, Any]:
    wish: dict[str, Any] = {}
    for word in words:
        if re.fullmatch(r"[0-9.]+", word):
            wish["gpu"] = float(word) if "." in word else int(word)
        elif word == "all":
            wish["gpu"] = "all"
        elif word[0] == "@":
            wish["gpus"] = _tokens(word[1:])
        elif word.startswith("kind="):
            wish["gpu_type"] = word[5:].replace("_", " ").split("+")
        elif re.fullmatch(r"x\d+", word):
            service["workers"] = int(word[1:])
        elif word in {"per_gpu", "fit", "cpu_count"}:
            service["workers"] = word
        elif word == "spread":
            service["placement"] = word
        elif word in {"cpu", "fail"}:
            service["on_no_gpu"] = word
        else:
            wish["gpu_memory"] = word
    return wish


def _tokens(text: str) -> list[int | str]:
    return [int(token) if token.isdecimal() else token for token in text.split(",")]


# ---- plans ----------------------------------------------------------------------------------------------------------


def plan_of(box: str, services: str) -> dict[str, Placement]:
    """The plan by worker; a host with 2 CPUs."""
    supply, spec = machine(box), file(services)
    spec = spec.scale(count_workers(spec, 2, supply, {}, {}))
    plan = make_plan(spec.expand(2), supply, {}, allowed=spec.gpus)
    return {str(worker): placement for worker, placement in plan.items()}


def shown(placement: Placement) -> str:
    """A slice in the words of a row."""
    if placement.fallback:
        return "cpu"
    if placement.launch is None:
        return "-"
    return ",".join(share.uuid.partition("-")[2] for share in placement.launch.slice) or "none"
