"""The keys that speak of GPUs: how each is read, and which ones go together. Reads only the values it is given."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction

from supervisor.core.file.problems import (
    BadValueError,
    Place,
    as_text,
    choice,
    map_or_empty,
    nearest,
    shown,
    whole_number,
)
from supervisor.core.file.service import WHOLE, GpuCount, ServiceSpec
from supervisor.core.gpu_types import LITERALS, is_glob

GPU_MAX = 1024  # Devices of one worker; hosts have 16, with MIG up to 112.
GPU_KEYS_OF_A_WISH = ("gpus", "gpu_memory", "gpu_memory_guard", "gpu_memory_guard_after", "gpu_type")
"""Keys that say something about the GPUs of a worker, and so mean nothing for one without any."""

_GPU_INDEX_END = 65536
_GPU_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9:./-]{0,99}", re.ASCII)
_TYPE_MAX = 200
_RATIO = re.compile(r"(0|[1-9][0-9]{0,3})/([1-9][0-9]{0,3})", re.ASCII)


# ---- one key each ----------------------------------------------------------------------------------------------------


def parse_gpu(value: object) -> GpuCount:
    """
    GPUs of one worker.

    Args:
        value: 0, a fraction of one with at most three digits, a whole number, or ``all``.

    Returns:
        Thousandths of a device, or ``all``.

    Raises:
        BadValueError: It is none of these.
    """
    if value == "all":
        return "all"
    if isinstance(value, float) and 0 < value < GPU_MAX and value != int(value):
        return _parse_fraction(value)
    expected = f"a fraction such as 0.25, a whole number from 0 to {GPU_MAX}, or all"
    try:
        return WHOLE * whole_number(0, GPU_MAX, expected)(value)
    except BadValueError as error:
        raise BadValueError(str(error), error.hint or _hint(value)) from None


def _parse_fraction(value: float) -> int:
    if value > 1:
        message = f"expected a fraction below 1 or a whole number, got {shown(value)}"
        raise BadValueError(message, f"write a whole number: {int(value)} or {int(value) + 1}")
    # What stands in the file, and not the binary float beside it.
    millis = Fraction(repr(value)) * WHOLE
    if millis.denominator != 1 or millis < 1:
        nearby = max(1, int(millis)) / WHOLE
        raise BadValueError(f"expected at most three digits after the point, got {shown(value)}", f"write {nearby:g}")
    return int(millis)


def _hint(value: object) -> str:
    """For what people write elsewhere: quoted numbers, and ratios."""
    if not isinstance(value, str):
        return ""
    if (match := _RATIO.fullmatch(value.strip())) and 0 < int(match[1]) < int(match[2]):
        return f"write {max(1, int(match[1]) * WHOLE // int(match[2])) / WHOLE:g}"
    try:
        float(value)
    except ValueError:
        return nearest(value, ("all",))
    return "write it without quotes"


def parse_sharing(value: object) -> str:
    """How workers on one GPU share it."""
    if value == "mps":
        raise BadValueError("mps is not supported yet", "leave it out: workers on one GPU take turns")
    return choice("timeslice", "mps")(value)


def read_gpu_types(place: Place) -> tuple[str, ...] | None:
    """One kind of GPU, or a list of those that will do."""
    if not isinstance(place.value, list | tuple):
        one = place.read(_parse_gpu_type)
        return None if one is None else (one,)
    kinds = [item.read(_parse_gpu_type) for item in place.items("")]
    if not kinds:
        place.refuse("expected at least one kind of GPU", "leave it out for any")
    return tuple(dict.fromkeys(kind for kind in kinds if kind is not None)) or None


def _parse_gpu_type(value: object) -> str:
    """A name that is known, or a pattern for the driver's."""
    kind = as_text(value)
    if not isinstance(value, str) or not kind or len(kind) > _TYPE_MAX:
        raise BadValueError(f"expected a kind of GPU such as nvidia-l4, got {shown(value)}")
    if kind in LITERALS or is_glob(kind):
        return kind
    model = kind.removeprefix("nvidia-").upper() if kind.startswith("nvidia-") else kind
    pattern = f'write "*{model}*" for any GPU with that in the name nvidia-smi shows'
    like = nearest(kind.lower(), LITERALS)
    hint = f"{like} or {pattern}" if like else pattern
    raise BadValueError(f"unknown kind of GPU {shown(kind)}", hint)


def read_gpus(place: Place) -> tuple[str, ...] | None:
    """Devices as a person names them, each once."""
    items = place.items('[0, 1] or ["GPU-..."]')
    if isinstance(place.value, list | tuple) and not items:
        place.refuse("expected at least one GPU", "leave it out for all GPUs; write gpu: 0 for none")
    names: dict[str, str] = {}
    for item in items:
        name = item.read(_parse_gpu_name)
        if name is not None and name.lower() in names:
            item.refuse(f"{shown(name)} is named twice")
        elif name is not None:
            names[name.lower()] = name
    return tuple(names.values()) or None


def _parse_gpu_name(value: object) -> str:
    expected = BadValueError(f"expected an index, a UUID or a PCI id, got {shown(value)}")
    match value:
        case bool():
            raise expected
        case int() if 0 <= value < _GPU_INDEX_END:
            return str(int(value))
        case str() if _GPU_NAME.fullmatch(value):
            return value
        case _:
            raise expected


# ---- which keys go together ------------------------------------------------------------------------------------------


def _refuse_guard(place: Place, resources: Mapping[str, object]) -> None:
    """There is nothing to hold a worker to."""
    for key in ("gpu_memory_guard", "gpu_memory_guard_after"):
        if key in resources:
            hint = "write gpu_memory too: what one worker may have of a GPU"
            place.refuse(f"{key} needs gpu_memory", hint, below=("resources", key))


def check_gpu_use(place: Place, service: ServiceSpec, written: Mapping[str, object]) -> None:
    """Whoever speaks of GPUs asks for one. Not asked where the values it rests on are bad themselves."""
    depth = len(place.path)
    below = [problem.path[depth] for problem in place.problems if problem.path[:depth] == place.path != problem.path]
    if {"resources", "workers"} & set(below):
        return
    hint = "write gpu: 1; a worker with gpu: 0 has no GPU memory and chooses no GPUs"
    entries = service.variants()
    if service.resources.gpu == 0 and all(service.request(entry).gpu == 0 for entry in entries):
        for key in map_or_empty(written.get("resources")):
            if key in GPU_KEYS_OF_A_WISH:
                place.refuse(f"{key} needs gpu", hint, below=("resources", key))
    if all(service.request(entry).gpu_memory is None for entry in entries):
        _refuse_guard(place, map_or_empty(written.get("resources")))
    workers = written.get("workers")
    words = [map_or_empty(entry) for entry in workers] if isinstance(workers, list | tuple) else [{}]
    for index, (entry, word) in enumerate(zip(entries, words, strict=False)):
        for key in word if service.request(entry).gpu == 0 else ():
            if key in GPU_KEYS_OF_A_WISH:
                place.refuse(f"{key} needs gpu", hint, below=("workers", index, key))
    _check_count(place, service)


def _check_count(place: Place, service: ServiceSpec) -> None:
    """A count that is taken from the GPUs needs to know what one worker takes of them."""
    if not service.is_sized:
        return
    resources, below = service.resources, ("workers",)
    if resources.gpu == 0:
        place.refuse(f"{service.workers} needs gpu", "write resources: {gpu: 1}, or workers: cpu_count", below=below)
    elif resources.gpu == "all":
        place.refuse(f"{service.workers} needs a number of GPUs, not all", "write workers: 1", below=below)
    elif service.workers == "fit" and resources.gpu_memory is None:
        place.refuse("fit needs gpu_memory", "write what one worker needs, or workers: per_gpu", below=below)
