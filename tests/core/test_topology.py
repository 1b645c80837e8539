"""Sets of devices by their links, on machines where the rows of a table would be long."""

from __future__ import annotations

import random
from itertools import combinations, pairwise

import pytest

from supervisor.core.bitsets import bits
from supervisor.core.inventory import Link
from supervisor.core.plan import Current, Supply, make_plan
from supervisor.core.topology import Topology
from tests.core.builders import device, devices, uuid_of, wanted
from tests.core.effort import count_calls

CUBE = ["01", "02", "03", "12", "13", "23", "45", "46", "47", "56", "57", "67", "04", "15", "26", "37"]
"""The eight GPUs of a DGX-1: two fours, and a link from each to its like."""


def topology(count: int, pairs: list[str], *, nvlinks: int = 2) -> Topology:
    links = [Link(uuid_of(int(pair[0], 36)), uuid_of(int(pair[1], 36)), nvlinks, 40) for pair in pairs]
    return Topology(devices(count), links)


def chosen(one: Topology, count: int, candidates: list[int], required: list[int] | None = None) -> list[int]:
    every = sum(1 << at for at in candidates)
    return list(bits(one.choose(count, every, sum(1 << at for at in required or []), every)))


def test_a_mesh_gives_sets_in_which_everybody_is_linked() -> None:
    """Four of a DGX-1 are one of its fours; two leave the other four whole."""
    cube = topology(8, CUBE)

    assert chosen(cube, 4, list(range(8))) == [0, 1, 2, 3]
    assert chosen(cube, 4, [1, 2, 3, 4, 5, 6, 7]) == [4, 5, 6, 7]
    assert chosen(cube, 2, [0, 4, 5, 6, 7]) == [0, 4]
    assert chosen(cube, 2, [0, 5, 6]) == [5, 6]


def test_what_was_had_before_is_kept_where_it_can_be() -> None:
    """The rest of the set is what goes with it."""
    assert chosen(topology(8, CUBE), 2, list(range(8)), [6]) == [2, 6]
    assert chosen(topology(8, CUBE), 3, list(range(8)), [7]) == [4, 5, 7]
    assert chosen(topology(8, CUBE), 2, list(range(8)), [0, 7]) == [0, 7]


def test_many_devices_are_searched_from_each_of_them() -> None:
    """A ring of twenty has pairs and no three: those go by their node."""
    ring = [f"{'0123456789abcdefghij'[at]}{'0123456789abcdefghij'[(at + 1) % 20]}" for at in range(20)]
    one = topology(20, ring)

    assert chosen(one, 2, list(range(20))) == [0, 1]
    assert chosen(one, 2, [0, 2, 4, 6, 8, 9, *range(11, 20)]) == [8, 9]
    assert chosen(one, 3, list(range(20))) == [0, 1, 2]


def test_links_to_all_say_nothing() -> None:
    """A box with a switch: the first ones, and no search."""
    pairs = ["".join(pair) for pair in combinations("01234567", 2)]

    assert topology(8, pairs).levels == []
    assert chosen(topology(8, pairs), 3, [1, 4, 5, 6]) == [1, 4, 5]


def test_a_worker_that_grows_keeps_its_gpu_and_gets_what_is_linked_to_it() -> None:
    """Two of eight: the one it had, and the other of that pair."""
    links = tuple(Link(uuid_of(a), uuid_of(a + 1), 4, 40) for a in (0, 2, 4, 6))
    supply = Supply(tuple(device(at) for at in range(8)), trusted=True, links=links)
    before = make_plan([wanted(gpus=("5",))], supply, {})
    (had,) = before.values()
    assert had.launch is not None

    after = make_plan([wanted(gpu=2000)], supply, {had.wanted.id: Current(had.wanted, had.launch.slice, living=True)})

    (now,) = after.values()
    assert now.launch is not None
    assert [share.uuid for share in now.launch.slice] == [uuid_of(4), uuid_of(5)]


def test_a_pick_among_some_says_nothing_about_a_pick_among_all() -> None:
    """Who may only have the first four takes one of them; the next one takes the GPU that belongs to nobody."""
    pairs = ["".join(pair) for four in ("0123", "456") for pair in combinations(four, 2)]
    one = topology(8, pairs)

    assert list(bits(one.choose_one(0x0F, 0xFF))) == [0]
    assert list(bits(one.choose_one(0xFE, 0xFE))) == [7]


@pytest.mark.parametrize("count", [2, 5, 8, 12])
def test_devices_that_nobody_chooses_from_make_no_set_dearer(count: int) -> None:
    """Sixteen of sixty-four, all linked but to one, and one to nobody: as quick as if there were no others."""
    near = [(1 << 63) - 1 & ~(1 << at | 1 << 62 - at) for at in range(63)]
    pairs = [Link(uuid_of(a), uuid_of(b), 4, 50) for a in range(63) for b in range(a) if near[a] >> b & 1]
    one = Topology(devices(64), pairs)

    assert count_calls(lambda: one.choose(count, 0xFFFF, 0, (1 << 64) - 1)) < 10_000


def with_tails(core: list[tuple[int, int]], lengths: list[int]) -> Topology:
    """Sixteen linked ones, and on each a row of others of which each is linked to the next."""
    pairs, at = list(core), 16
    for number, length in enumerate(lengths):
        row = [number, *range(at, at + length)]
        pairs += pairwise(row)
        at += length
    return Topology(devices(at), [Link(uuid_of(a), uuid_of(b), 2, 40) for a, b in pairs])


EVERYBODY = list(combinations(range(16), 2))


@pytest.mark.parametrize("count", [2, 7, 8, 9, 12])
def test_what_hangs_on_a_device_alone_goes_with_it(count: int) -> None:
    """Sixteen of sixty-four with three others on each: no set leaves more than the first one."""
    one = with_tails(EVERYBODY, [3] * 16)

    assert count_calls(lambda: one.choose(count, 0xFFFF, 0, (1 << 64) - 1)) < 3_000
    assert list(range(count)) == chosen_among(one, count, 64)


@pytest.mark.parametrize("seed", range(3))
def test_what_hangs_on_two_makes_many_sets_to_look_at(seed: int) -> None:
    """Forty-eight others that each hang on two of sixteen: about two calls for each of the 12,870 sets of eight."""
    dice = random.Random(seed)
    pairs = EVERYBODY + [(a, 16 + at) for at in range(48) for a in dice.sample(range(16), 2)]
    one = Topology(devices(64), [Link(uuid_of(a), uuid_of(b), 2, 40) for a, b in pairs])

    assert count_calls(lambda: one.choose(8, 0xFFFF, 0, (1 << 64) - 1)) < 80_000


def test_of_sixteen_every_set_is_looked_at() -> None:
    """The best one is the last of the 12,870 sets of eight."""
    one = with_tails(EVERYBODY, [3] * 8 + [0] * 8)

    assert chosen_among(one, 8, 40) == [8, 9, 10, 11, 12, 13, 14, 15]


def chosen_among(one: Topology, count: int, devices_in_all: int) -> list[int]:
    """Of the first sixteen, while nobody is on any device."""
    return list(bits(one.choose(count, 0xFFFF, 0, (1 << devices_in_all) - 1)))


@pytest.mark.parametrize("seed", range(80))
def test_what_is_left_hangs_together_as_if_it_were_looked_at_as_a_whole(seed: int) -> None:
    """Of the sets at the best level the one with the biggest rest, then the first: by trying every one."""
    dice = random.Random(seed)
    count, among = dice.randint(2, 4), dice.sample(range(12), dice.randint(5, 12))
    pairs = [pair for pair in combinations(range(12), 2) if dice.random() < dice.choice((0.15, 0.5))]
    one = Topology(devices(12), [Link(uuid_of(a), uuid_of(b), 2, 40) for a, b in pairs])
    empty = sum(1 << at for at in among if seed % 4 or dice.random() < 0.6) | dice.getrandbits(12)
    required = [among[0]] if seed % 3 == 0 else []

    def biggest(taken: tuple[int, ...]) -> int:
        left = {at for at in range(12) if empty >> at & 1} - set(taken)
        parts = [{at} for at in left]
        for a, b in pairs:
            if a in left and b in left:
                first, second = (next(part for part in parts if at in part) for at in (a, b))
                if first is not second:
                    parts.remove(second)
                    first |= second
        return max(map(len, parts), default=0)

    linked = [
        taken
        for taken in combinations(sorted(among), count)
        if set(required) <= set(taken) and all(pair in pairs for pair in combinations(taken, 2))
    ]
    expected = min(linked, key=lambda taken: (-biggest(taken), taken), default=None)
    mask = one.choose(count, sum(1 << at for at in among), sum(1 << at for at in required), empty)

    assert expected is None or tuple(bits(mask)) == expected
