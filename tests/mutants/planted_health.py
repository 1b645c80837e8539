"""Faults of health: devices that are believed or not, workers that stay or leave, doubts and quarantines."""

from __future__ import annotations

from tests.mutants.graft import Mutant

HEALTH: tuple[Mutant, ...] = (
    Mutant(
        "sick devices stay what the reading said",
        "wards.py",
        '        health, reason = (ailment.health, ailment.reason) if ailment else (Health.OK, "")\n',
        '        health, reason = Health.OK, ""\n',
        rules=("nothing_starts_on_a_quarantined_device",),
    ),
    Mutant(
        "nobody leaves a sick device",
        "wards.py",
        "        elif is_sick(ailment):\n",
        "        elif False:\n",
        rules=("nobody_stays_on_a_sick_device",),
    ),
    Mutant(
        "everybody leaves for a fault of one device",
        "wards.py",
        "    for worker_id in workers_on(turn.fleet, uuid):\n        worker = turn.workers[worker_id]\n",
        "    for worker_id in sorted(turn.workers):\n        worker = turn.workers[worker_id]\n",
        rules=("a_fault_changes_no_worker_elsewhere", "nobody_is_stopped_without_a_reason"),
    ),
    Mutant(
        "an empty device goes on draining",
        "wards.py",
        "            tell(turn, uuid, Emptied())\n",
        "            pass\n",
        rules=("only_what_was_told_of_is_sick",),
    ),
    Mutant(
        "every error is one of the hardware",
        "tidings.py",
        '        case "hardware":\n            tell(turn, uuid, Faulted(reason))\n',
        '        case "hardware" | "application" | "information":\n            tell(turn, uuid, Faulted(reason))\n',
        by="tests/core/test_wards.py",
    ),
    Mutant(
        "what comes back has nothing to prove",
        "health.py",
        "    if not one.is_held and not one.is_faulty:\n",
        "    if True:\n",
        by="tests/core/test_health.py",
    ),
    Mutant(
        "quarantine takes no time",
        "health.py",
        "    until = None if one.is_held or is_given_up else now + span_s(terms, max(1, strikes))\n",
        "    until = None if one.is_held or is_given_up else now\n",
        rules=("nothing_starts_on_a_quarantined_device",),
    ),
    Mutant(
        "no device is ever given up",
        "health.py",
        "    is_given_up = 0 < terms.max_strikes <= strikes and not one.is_held\n",
        "    is_given_up = False\n",
        rules=("nothing_starts_on_a_quarantined_device",),
    ),
    Mutant(
        "whoever is given up once is so for ever",
        "health.py",
        "    return _enter(one, Health.PROBING, now, is_held=False, strikes=0)\n",
        "    return _enter(one, Health.PROBING, now, is_held=False)\n",
        by="tests/core/test_health.py",
    ),
    Mutant(
        "what an operator says hides what was known",
        "health.py",
        "    return evolve(one, is_held=True, reason=_with_past(event.reason, one), until=None, scope=ANY)\n",
        "    return evolve(one, is_held=True, reason=event.reason, until=None, scope=ANY)\n",
        by="tests/core/test_health.py",
    ),
    Mutant(
        "a canary that is missing condemns its device",
        "health.py",
        "    if event.is_unable:\n",
        "    if False:\n",
        by="tests/core/test_health.py",
    ),
    Mutant(
        "who dies of its device is charged",
        "facts.py",
        '    if event.device_fault and event.code != 0 and worker.restart.policy != "never":\n',
        "    if False:\n",
        by="tests/core/test_wards.py",
    ),
    Mutant(
        "what was mended is never too much",
        "tidings.py",
        "    return len(recent) >= XIDS_MAX\n",
        "    return False\n",
        by="tests/core/test_xids.py",
    ),
    Mutant(
        "our own kills are told as errors",
        "tidings.py",
        "    return any(at is not None and turn.now - at <= ECHO_S for at in ended)\n",
        "    return False\n",
        by="tests/core/test_wards.py",
    ),
    Mutant(
        "one service condemns a device",
        "deaths.py",
        "    return services if len(against) >= DEATHS_MIN and len(services) >= SERVICES_MIN else ()\n",
        "    return services if len(against) >= DEATHS_MIN else ()\n",
        by="tests/core/test_wards.py",
    ),
    Mutant(
        "who dies everywhere speaks against each device",
        "deaths.py",
        "    against = [one.service for one in deaths if uuid in one.devices and one.service not in elsewhere]\n",
        "    against = [one.service for one in deaths if uuid in one.devices]\n",
        by="tests/core/test_wards.py",
    ),
    Mutant(
        "another launch pays for what failed on a sick device",
        "moves.py",
        " and was == worker.target.wanted.recipe\n",
        "\n",
        by="tests/core/test_wards.py",
    ),
)
