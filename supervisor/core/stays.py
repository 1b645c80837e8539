"""
Who is on a device that is sick, and who stays there because nobody asks them to leave. Pure questions to a fleet.

What becomes of the others stands in `wards`.
"""

from __future__ import annotations

from supervisor.core.inventory import Health, name_of
from supervisor.core.turn import Fleet
from supervisor.core.wards import is_left_alone, terms_of, workers_on
from supervisor.core.worker import RUNNING, Worker


def words_of_stay(fleet: Fleet, uuid: str) -> str:
    """Who keeps a device from being empty, why, and until when; empty where everybody is on the way out."""
    ailment = fleet.ailments.get(uuid)
    if ailment is None or ailment.health is not Health.DRAINING:
        return ""
    there = [fleet.workers[one] for one in workers_on(fleet, uuid)]
    names = [str(one.id) for one in there if one.state in RUNNING and is_left_alone(fleet, uuid, ailment, one)]
    if not names:
        return ""
    is_ignored = terms_of(fleet).on_fault == "ignore" and uuid not in fleet.spared
    why = "health.on_fault is ignore" if is_ignored else "has no use for links"
    one = len(names) == 1
    stay, leave = ("stays", "leaves") if one else ("stay", "leave")
    if not is_ignored and not one:
        why = "have no use for links"
    return f"{', '.join(names)} {stay} ({why}), and it is drained when {'it' if one else 'they'} {leave}"


def words_of_sickness(fleet: Fleet, worker: Worker) -> str:
    """What is with the devices of one who goes on there; empty where nothing is."""
    if not fleet.ailments or worker.state not in RUNNING:
        return ""
    known = fleet.inventory.by_uuid if fleet.inventory else {}
    found: dict[str, None] = {}
    for share in worker.occupied:
        device = known.get(share.uuid) or fleet.missing.get(share.uuid)
        uuid = (device.parent if device is not None else None) or share.uuid
        ailment = fleet.ailments.get(uuid)
        if ailment is None or ailment.health not in {Health.DRAINING, Health.LOST}:
            continue
        gpu = known.get(uuid) or fleet.missing.get(uuid)
        found[f"{name_of(gpu) if gpu else uuid} is {ailment.health}: {ailment.reason}"] = None
    return "; ".join(found)
