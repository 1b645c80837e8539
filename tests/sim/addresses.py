"""Sockets of services: where the daemon listens, where strangers do, and files that want some."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any

from supervisor.core.file.listen import Address
from supervisor.core.message import Event, SocketsBound
from tests.sim.agenda import Agenda

CHOICES = (*(f"tcp://127.0.0.1:{9000 + n}" for n in range(5)), "unix:run/a.sock", "unix:run/b.sock")
IN_USE = "address already in use"


class FakeAddresses:
    """
    Who listens where.

    Args:
        agenda: Time.
        post: Where answers go.
        rng: A generator of their own, so that lives without sockets stay what they were.
    """

    def __init__(self, agenda: Agenda, post: Callable[[Event], None], rng: random.Random) -> None:
        self.ours: set[Address] = set()
        self.strangers: set[Address] = set()
        self.rng = rng
        self._agenda = agenda
        self._post = post

    def bind(self, addresses: Iterable[Address]) -> None:
        """Whoever asks gets what nobody has; the answer takes a moment."""
        self._agenda.after(self.rng.choice((0.0, 0.0, 0.05, 1.0)), lambda: self._answer(tuple(addresses)))

    def _answer(self, asked: tuple[Address, ...]) -> None:
        refused = {address: IN_USE for address in asked if address in self.strangers}
        bound = tuple(address for address in asked if address not in refused)
        self.ours |= set(bound)
        self._post(SocketsBound(bound, refused))

    def unbind(self, addresses: Iterable[Address]) -> None:
        """Others may have them."""
        self.ours -= set(addresses)

    def come(self, address: Address) -> None:
        """Somebody else listens there, unless we do."""
        if address not in self.ours:
            self.strangers.add(address)

    def heal(self) -> None:
        """Nobody else listens anywhere."""
        self.strangers.clear()


def put_sockets(document: dict[str, Any], rng: random.Random, chance: float) -> dict[str, Any]:
    """Give some services of a file other sockets than they have, some of them none."""
    for name in sorted(document.get("services") or {}):
        service = document["services"][name]
        if not isinstance(service, dict) or rng.random() >= chance:
            continue
        service.pop("listen", None)
        taken = {one for other in document["services"].values() for one in (other.get("listen") or {}).values()}
        free = [one for one in CHOICES if one not in taken or rng.random() < 0.02]
        count = min(rng.choice((0, 1, 1, 2)), len(free))
        if count:
            service["listen"] = dict(zip(("http", "admin"), rng.sample(free, count), strict=False))
    return document
