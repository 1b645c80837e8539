"""Faults in how workers are replaced by a new launch, or for an operator."""

from __future__ import annotations

from tests.mutants.graft import Mutant

ROLLOUT = (
    Mutant(
        "those make room who fail for that",
        "rollout.py",
        "if one.service == service and plan[one].refused]",
        "if one.service == service and False]",
        by="tests/core/test_rollout.py",
    ),
    Mutant(
        "two go at once of which one could go alone",
        "rollout.py",
        "(_one_alone(turn, service, together - set(batch)) if serves else set()) or together",
        "together",
        by="tests/core/test_rollout.py",
    ),
    Mutant(
        "the first is not waited for",
        "rollout.py",
        "first = () if standing.arriving or not (idle or spare) else ranked[:1]",
        "first = ranked[:1]",
    ),
    Mutant(
        "all replaced at once, once one is ready",
        "rollout.py",
        "    return tuple(idle) or tuple(one for _, one in ranked[:spare])\n",
        "    return tuple(one for _, one in ranked)\n",
    ),
    Mutant(
        "one more may be missing than the file says",
        "rollout.py",
        "standing.ready - (standing.expected - max_unavailable)",
        "standing.ready - (standing.expected - max_unavailable - 1)",
    ),
    Mutant(
        "a failed canary does not halt the rest",
        "rollout.py",
        '        return "; ".join(words) if is_of_now else None\n',
        "        return None\n",
    ),
    Mutant(
        "a canary that crashes for ever is never given up",
        "rollout.py",
        "if worker.state is State.BACKOFF and attempt.started_at is not None",
        "if False and attempt.started_at is not None",
        by="tests/core/test_rollout.py",
    ),
    Mutant(
        "a canary does not go back",
        "revision.py",
        "    turn.set(kept={**fleet.kept, **back}, tried=tried,",
        "    turn.set(kept=dict(fleet.kept), tried=tried,",
    ),
    Mutant(
        "those who stay get the new launch when a roll-out is halted",
        "revision.py",
        "    halted = replace(fleet.rolls[service], is_halted=True)\n",
        "    halted = replace(fleet.rolls[service], is_halted=True)\n    back = {}\n"
        "    fleet = replace(fleet, kept={one: was for one, was in fleet.kept.items() if one.service != service})\n",
    ),
    Mutant(
        "a reload in the middle forgets what was before both",
        "revision.py",
        "        was = attempt.was if attempt else fleet.kept.get(worker_id, worker.target.wanted)\n",
        "        was = fleet.kept.get(worker_id, worker.target.wanted)\n",
        by="tests/core/test_rollout.py",
    ),
    Mutant(
        "the canary of an earlier file goes on with that",
        "rollout.py",
        "    _relaunch(turn, [one for one in going if one not in turn.fleet.extras])\n",
        "",
    ),
    Mutant(
        "a launch without a place takes somebody down",
        "rollout.py",
        "    if lost := _who_loses(turn, batch, plan):\n",
        "    if lost := {}:\n",
        by="tests/core/test_rollout.py",
    ),
    Mutant(
        "more of what does not work",
        "revision.py",
        "        if roll.is_halted and roll.before is not None:\n",
        "        if False:\n",
        by="tests/core/test_rollout.py",
    ),
    Mutant(
        "all of a service restarted at once",
        "rollout.py",
        "running[: max(0, _at_once(turn.fleet, service) - missing)]",
        "running",
    ),
    Mutant(
        "a restart goes on after one has failed",
        "rollout.py",
        "    failed = [one for one in workers if failed_since(one, restarting.at)]\n",
        "    failed: list[Worker] = []\n",
    ),
)

SURGE = (
    Mutant(
        "an extra worker is missed like others",
        "rollout.py",
        "        ready=standing.ready + theirs.ready,\n",
        "        ready=standing.ready + theirs.ready,\n        expected=standing.expected + theirs.expected,\n",
    ),
    Mutant(
        "one goes before the extra one is ready",
        "rollout.py",
        "        ready=standing.ready + theirs.ready,\n",
        "        ready=standing.ready + len(extras),\n",
        by="tests/core/test_surge.py",
    ),
    Mutant(
        "an extra worker beside one of its service",
        "extras.py",
        "    left = tuple(uuid for uuid in eligible if uuid not in taken)\n",
        "    left = tuple(eligible)\n",
        by="tests/core/test_surge.py",
    ),
    Mutant(
        "an extra worker that lives is placed as one that is to come",
        "preview.py",
        "    late = [one for one in extras if not _lives_on(known.get(one.id), one)]\n",
        "    late = list(extras)\n",
    ),
    Mutant(
        "an extra worker without the GPU that it asks for",
        "extras.py",
        'replace(extra.policy, on_no_gpu="wait")',
        "extra.policy",
    ),
    Mutant(
        "an extra worker stays",
        "rollout.py",
        "    for service in sorted({one.service for one in turn.fleet.extras} - turn.fleet.rolling):\n",
        "    for service in ():\n",
        by="tests/core/test_surge.py",
    ),
    Mutant(
        "an extra worker goes when a roll-out is halted",
        "surge.py",
        "    ended = {one for one in mine if is_over or one not in serving}\n",
        "    ended = set(mine)\n",
        by="tests/core/test_surge.py",
    ),
    Mutant(
        "an extra worker goes back before it goes for good",
        "rollout.py",
        "if one in turn.workers and one not in turn.fleet.extras])\n",
        "if one in turn.workers])\n",
        by="tests/core/test_surge.py",
    ),
    Mutant(
        "an extra worker without a GPU is ended to make room",
        "surge.py",
        "    return bool(reach(turn.workers.get(worker)))\n",
        "    return True\n",
        by="tests/core/test_surge.py",
    ),
    Mutant(
        "no room is said before those have gone who serve nobody",
        "rollout.py",
        "_take_turns(turn, service, standing, is_last_word=False)",
        "_take_turns(turn, service, standing, is_last_word=True)",
        by="tests/core/test_surge.py",
    ),
    Mutant(
        "one extra worker more than the file says",
        "surge.py",
        "    missing = min(most, serving) - len(mine)\n",
        "    missing = min(most + 1, serving) - len(mine)\n",
    ),
    Mutant(
        "extra workers count",
        "rescale.py",
        "Counter(worker.service for worker in plan if worker not in turn.fleet.extras)",
        "Counter(worker.service for worker in plan)",
    ),
    Mutant(
        "no room is looked for",
        "surge.py",
        "    new, why = _find_room(turn, new_ids(fleet, service, missing, fleet.counts.get(service, 0)))\n",
        '    new, why = [], ""\n',
    ),
    Mutant(
        "who waits for what never comes holds up a roll-out",
        "surge.py",
        "        elif worker.state is State.PENDING and turn.now",
        "        elif False and turn.now",
        by="tests/core/test_surge.py",
    ),
    Mutant(
        "who was left alone with what it runs is not kept so by a halt",
        "revision.py",
        "    back = {**alone, **back}\n",
        "",
        by="tests/core/test_reload.py",
    ),
)
