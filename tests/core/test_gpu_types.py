"""Which device is of which kind."""

from __future__ import annotations

from dataclasses import replace

import pytest

from supervisor.core.gpu_types import KINDS, LITERALS, matches, type_of
from supervisor.core.inventory import Device
from tests.core.builders import device

NAMES = """
NVIDIA B200                                        | 179.1 | nvidia-b200
NVIDIA GB200                                       | 184.0 | nvidia-gb200
NVIDIA RTX PRO 6000 Blackwell Server Edition       | 95.6  | nvidia-rtx-pro-6000
NVIDIA RTX PRO 6000 Blackwell Workstation Edition  | 95.6  | nvidia-rtx-pro-6000
NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition | 95.6 | nvidia-rtx-pro-6000
NVIDIA H200                                        | 140.4 | nvidia-h200-141gb
NVIDIA H200 NVL                                    | 140.4 | nvidia-h200-141gb
NVIDIA H100 80GB HBM3                              | 79.6  | nvidia-h100-80gb
NVIDIA H100 PCIe                                   | 79.6  | nvidia-h100-80gb
NVIDIA H100                                        | 79.6  | nvidia-h100-80gb
NVIDIA H100 NVL                                    | 93.6  | nvidia-tesla-h100
Tesla T4                                           | 15.0  | nvidia-tesla-t4
NVIDIA T4                                          | 15.0  | nvidia-tesla-t4
NVIDIA A100-SXM4-40GB                              | 39.6  | nvidia-tesla-a100
A100-PCIE-40GB                                     | 39.6  | nvidia-tesla-a100
NVIDIA A100-SXM4-80GB                              | 79.3  | nvidia-a100-80gb
NVIDIA A100 80GB PCIe                              | 80.0  | nvidia-a100-80gb
NVIDIA A10G                                        | 22.5  | nvidia-a10g
NVIDIA L4                                          | 22.5  | nvidia-l4
Tesla V100-SXM2-16GB                               | 15.8  | nvidia-tesla-v100
Tesla V100-SXM3-32GB                               | 31.7  | nvidia-tesla-v100
Tesla V100S-PCIE-32GB                              | 31.7  | nvidia-tesla-v100
Tesla P100-PCIE-12GB                               | 11.9  | nvidia-tesla-p100
Tesla K80                                          | 11.2  | nvidia-tesla-k80
Tesla P4                                           | 7.4   | nvidia-tesla-p4
AMD Instinct MI300X                                | 191.7 | amd-mi300x
AMD Instinct MI325X                                | 255.7 | amd-mi325x
AMD Instinct MI355X                                | 287.7 | amd-mi355x
NVIDIA L40                                         | 44.5  | -
NVIDIA L40S                                        | 44.5  | -
Tesla P40                                          | 22.4  | -
NVIDIA A10                                         | 22.5  | -
NVIDIA A100-SXM4-40GB MIG 1g.5gb                   | 4.8   | -
NVIDIA H100 80GB HBM3 MIG 7g.80gb                  | 79.0  | -
NVIDIA GH200 480GB                                 | 94.5  | -
NVIDIA B300 SXM6 AC                                | 268.0 | -
NVIDIA GB10                                        | 119.0 | -
GRID A100-40C                                      | 39.6  | -
AMD Instinct MI300A                                | 127.7 | -
NVIDIA GeForce RTX 4090                            | 24.0  | -
"""


def rows() -> list[tuple[str, float, str]]:
    parts = [[part.strip() for part in line.split("|")] for line in NAMES.splitlines() if line]
    return [(name, float(size), kind) for name, size, kind in parts]


def named(name: str, size: float | None) -> Device:
    total = None if size is None else int(size * 2**30)
    return replace(device(0), name=name, memory_total_bytes=total)


@pytest.mark.parametrize(("name", "size", "kind"), rows())
def test_a_device_has_its_kind_or_none(name: str, size: float, kind: str) -> None:
    """By the whole of its name and by its memory."""
    assert type_of(named(name, size)) == (None if kind == "-" else kind)


def test_every_literal_of_bentoml_is_known() -> None:
    """Eighteen, each of them the kind of some device."""
    assert len(LITERALS) == len(KINDS) == 18
    assert {kind for _, _, kind in rows()} - {"-"} == set(LITERALS)


def test_memory_tells_apart_what_the_name_does_not() -> None:
    """40 and 80 GB; what does not tell its memory is known by name alone."""
    assert matches("nvidia-tesla-a100", named("NVIDIA A100-SXM4-40GB", 39.6))
    assert not matches("nvidia-a100-80gb", named("NVIDIA A100-SXM4-40GB", 39.6))
    assert not matches("nvidia-h100-80gb", named("NVIDIA H100", 93.6))
    assert matches("nvidia-h100-80gb", named("NVIDIA H100", None))


def test_any_h100_is_a_tesla_h100() -> None:
    """BentoML's looser word."""
    for name, size in (("NVIDIA H100 80GB HBM3", 79.6), ("NVIDIA H100 NVL", 93.6), ("NVIDIA H100 PCIe", 79.6)):
        assert matches("nvidia-tesla-h100", named(name, size))
    assert not matches("nvidia-tesla-h100", named("NVIDIA GH200 480GB", 94.5))


@pytest.mark.parametrize(
    ("glob", "is_one"),
    [("*L40*", True), ("*l40s", True), ("NVIDIA L40?", True), ("L40[ST]", True), ("L40", False), ("*L4", False)],
)
def test_a_glob_is_held_against_the_whole_name(glob: str, is_one: bool) -> None:
    """With and without the vendor, in any case."""
    assert matches(glob, named("NVIDIA L40S", 44.5)) is is_one
