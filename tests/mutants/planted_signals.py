"""Faults of what is seen over minutes: ghosts, heat, links, and a fabric that is not joined yet."""

from __future__ import annotations

from tests.mutants.graft import Mutant

SIGNALS: tuple[Mutant, ...] = (
    Mutant(
        "a ghost is left in use",
        "checkups.py",
        "    if one.haunted < LASTING:\n",
        "    if one.haunted < 9 * LASTING:\n",
        by="tests/core/test_checkups.py",
    ),
    Mutant(
        "what is of one moment lasts",
        "checkups.py",
        "    is_next = before.at is None or at - before.at >= APART_S\n",
        "    is_next = True\n",
        by="tests/core/test_checkups.py",
    ),
    Mutant(
        "who has memory there is nobody",
        "checkups.py",
        "        and found.used_bytes <= NOBODYS_BYTES\n",
        "",
        by="tests/core/test_checkups.py",
    ),
    Mutant(
        "one of ours haunts its device",
        "checkups.py",
        "        not is_used\n        and device.holders == ()\n",
        "        device.holders == ()\n",
        by="tests/core/test_checkups.py",
    ),
    Mutant(
        "heat is a fault",
        "signs.py",
        "    if reason := haunting(watch):\n",
        "    if reason := haunting(watch) or doubt(watch):\n",
        by="tests/core/test_checkups.py",
    ),
    Mutant(
        "what software slows down is hot",
        "checkups.py",
        "        hot=before.hot + is_next if (found.throttle or 0) & sum(HOT) else 0,\n",
        "        hot=before.hot + is_next if found.throttle else 0,\n",
        by="tests/core/test_checkups.py",
    ),
    Mutant(
        "links to a GPU that is away are down",
        "checkups.py",
        "for end, count in before if end not in absent)\n",
        "for end, count in before)\n",
        by="tests/core/test_checkups.py",
    ),
    Mutant(
        "links that are down are missed once",
        "checkups.py",
        "    return tuple(sorted({**known, **{end: max(known.get(end, 0), count) for end, count in now}}.items()))\n",
        "    return now\n",
        by="tests/core/test_checkups.py",
    ),
    Mutant(
        "broken links move everybody",
        "signs.py",
        "        return Faulted(reason, LINK)\n",
        "        return Faulted(reason)\n",
        by="tests/core/test_checkups.py",
    ),
    Mutant(
        "starts do not wait for the fabric",
        "fabric.py",
        "    if not found:\n        return None\n",
        "    if True:\n        return None\n",
        rules=("nobody_starts_before_the_fabric_is_joined",),
    ),
    Mutant(
        "who may choose waits for the fabric",
        "plan.py",
        "        late = self._unready\n",
        "        late = 0\n",
        rules=("who_may_choose_does_not_wait_for_the_fabric",),
    ),
    Mutant(
        "an operator's word does not end the wait for the fabric",
        "fabric.py",
        "        if uuid not in excused\n",
        "",
        by="tests/core/test_checkups.py",
    ),
    Mutant(
        "a doubt keeps a device away",
        "wards.py",
        "    if not isinstance(sign, Vanished):\n        _note_answer(turn, device, sign, asked_at)\n",
        "    if isinstance(sign, SeenWell):\n        _note_answer(turn, device, sign, asked_at)\n",
        by="tests/core/test_checkups.py",
    ),
)
