"""
The key `after`: which services come before a service, and that no service comes before itself.

Touches nothing but the values it is given.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from supervisor.core.file.problems import Place, Problem, as_text, nearest, shown
from supervisor.core.file.service import ServiceSpec


def read_after(place: Place) -> tuple[str, ...]:
    """Names of services; whether they are there is known when all are read."""
    names = [item.read(as_text) for item in place.items("[NAME]")]
    return tuple(dict.fromkeys(name for name in names if name is not None))


def order_problems(services: Mapping[str, ServiceSpec], names: frozenset[str]) -> Iterator[Problem]:
    """
    Services that are not there, and services that would wait for themselves.

    Args:
        services: Those that could be read.
        names: All that the file has: who comes after one that is bad is not wrong for that.

    Returns:
        One problem for each name that is unknown, and one for each cycle, at the first of it in the file's order.
    """
    for name, service in services.items():
        for first in service.after:
            if first not in names:
                message = f"there is no service {shown(first)}"
                yield Problem(("services", name, "after"), message, nearest(first, sorted(names - {name})))
    said: set[frozenset[str]] = set()
    for name in services:
        cycle = _find_cycle(services, name)
        if cycle and frozenset(cycle) not in said:
            said.add(frozenset(cycle))
            way = " -> ".join((*cycle, cycle[0]))
            hint = f"write after: [] in {name}, if that is from the defaults" if len(cycle) == 1 else ""
            yield Problem(("services", name, "after"), f"{name} would wait for itself: {way}", hint)


def _find_cycle(services: Mapping[str, ServiceSpec], start: str) -> tuple[str, ...]:
    """The shortest way from a service over those it comes after back to itself; empty if there is none."""
    ways: list[tuple[str, ...]] = [(start,)]
    seen: set[str] = set()
    for way in ways:  # It grows while it is walked, so shorter ways come first.
        service = services.get(way[-1])
        for first in service.after if service else ():
            if first == start:
                return way
            if first not in seen:
                seen.add(first)
                ways.append((*way, first))
    return ()
