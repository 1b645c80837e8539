"""Which CPUs are beside a device, as sysfs says it."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor.core.message import Site
from supervisor.host.locality import near_cpus, parse_cpus

ALL = frozenset(range(16))


def sysfs(tmp_path: Path, **devices: tuple[str, str]) -> Path:
    """A machine of these PCI devices, each with its node and its CPUs."""
    for bus, (node, cpus) in devices.items():
        folder = tmp_path / f"bus/pci/devices/0000:{bus[1:]}:00.0"
        folder.mkdir(parents=True)
        (folder / "numa_node").write_text(f"{node}\n")
        (folder / "local_cpulist").write_text(f"{cpus}\n")
    return tmp_path


def site(bus: str, numa: int | None = None) -> Site:
    return Site(f"0000:{bus}:00.0", numa)


@pytest.mark.parametrize(
    ("text", "cpus"), [("0-3,8", {0, 1, 2, 3, 8}), ("5", {5}), ("", set()), ("0-1,4-5\n", {0, 1, 4, 5})]
)
def test_lists_are_read_as_the_kernel_writes_them(text: str, cpus: set[int]) -> None:
    assert parse_cpus(text) == cpus


def test_the_cpus_of_all_devices_are_taken_together(tmp_path: Path) -> None:
    """Of them those that the daemon may use itself."""
    root = sysfs(tmp_path, d10=("0", "0-3"), d20=("1", "4-7"))

    assert near_cpus([site("10")], ALL, root) == (frozenset({0, 1, 2, 3}), "")
    assert near_cpus([site("10"), site("20")], ALL - {0, 7}, root) == (frozenset({1, 2, 3, 4, 5, 6}), "")


def test_a_node_that_is_not_known_changes_nothing(tmp_path: Path) -> None:
    """The kernel then names every CPU, which would say nothing; nor does half of a slice."""
    root = sysfs(tmp_path, d10=("-1", "0-15"), d20=("1", "4-7"))

    for sites in ([site("10")], [site("20"), site("10")], [site("30")]):
        cpus, why = near_cpus(sites, ALL, root)
        assert cpus is None
        assert why == f"the NUMA node of the device {sites[-1].pci} is not known"


def test_a_node_that_the_driver_knows_will_do(tmp_path: Path) -> None:
    """Where sysfs has the node, and of the device nothing."""
    node = tmp_path / "devices/system/node/node1"
    node.mkdir(parents=True)
    (node / "cpulist").write_text("8-9\n")

    assert near_cpus([site("10", numa=1)], ALL, tmp_path) == (frozenset({8, 9}), "")


def test_cpus_that_the_daemon_may_not_use_are_no_reason_to_fail(tmp_path: Path) -> None:
    """A container with CPUs of the other socket alone."""
    root = sysfs(tmp_path, d10=("0", "0-3"))

    cpus, why = near_cpus([site("10")], frozenset({8, 9}), root)

    assert (cpus, why) == (None, "the CPUs beside its devices (0,1,2,3) are not among those that the daemon may use")
