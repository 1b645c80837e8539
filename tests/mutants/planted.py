"""The faults: each is one that could be made by hand, and has to be seen by the simulator or by a file of tests."""

from __future__ import annotations

from tests.mutants.graft import Mutant
from tests.mutants.planted_admission import ADMISSION
from tests.mutants.planted_causes import CAUSES
from tests.mutants.planted_cuts import CUTS
from tests.mutants.planted_excess import EXCESS
from tests.mutants.planted_health import HEALTH
from tests.mutants.planted_order import ORDER
from tests.mutants.planted_orders import ORDERS
from tests.mutants.planted_plan import PLAN
from tests.mutants.planted_probes import PROBES
from tests.mutants.planted_recycle import RECYCLE
from tests.mutants.planted_release import RELEASE
from tests.mutants.planted_rollout import ROLLOUT, SURGE
from tests.mutants.planted_signals import SIGNALS
from tests.mutants.planted_sockets import SOCKETS
from tests.mutants.planted_stops import STOPS
from tests.mutants.planted_surroundings import SURROUNDINGS

MUTANTS: tuple[Mutant, ...] = (
    *ADMISSION,
    *RECYCLE,
    *RELEASE,
    *HEALTH,
    *SIGNALS,
    *PROBES,
    *STOPS,
    *CAUSES,
    *EXCESS,
    *ORDER,
    Mutant(
        "slice freed when the main process ends",
        "facts.py",
        "    if event.alone:\n        return to_releasing(worker, now)\n    after = to_killing(",
        "    if event.alone or True:\n        return to_releasing(worker, now)\n    after = to_killing(",
    ),
    Mutant(
        "facts of old incarnations believed",
        "fleet.py",
        "if worker is None or worker.incarnation != event.incarnation:",
        "if worker is None:",
    ),
    Mutant(
        "incarnations counted per worker",
        "admission.py",
        "incarnation = fleet.incarnations + 1",
        "incarnation = worker.incarnation + 1",
    ),
    Mutant(
        "stop before the spawn forgotten",
        "facts.py",
        "return signalled(evolve(worker, pid=event.pid, spawned_at=now))",
        "return evolve(worker, pid=event.pid, spawned_at=now), ()",
    ),
    Mutant(
        "back-off never grows",
        "restart.py",
        "policy.delay_s * 2 ** min(failures - 1, 32)",
        "policy.delay_s",
    ),
    Mutant(
        "counts never cleared",
        "moves.py",
        "return evolve(worker, history=History(time_to_ready_s=worker.history.time_to_ready_s))",
        "return worker",
    ),
    Mutant(
        "healthy rule dropped",
        "restart.py",
        "    if run.was_healthy:\n",
        "    if False:\n",
    ),
    Mutant(
        "start_limit never reached",
        "restart.py",
        "if 0 < policy.start_limit <= after.start_failures:",
        "if 0 < policy.start_limit < 0:",
    ),
    Mutant(
        "reload cuts back-offs short",
        "intents.py",
        "    if event.placement.launch == worker.target.launch:\n",
        "    if False:\n",
    ),
    Mutant(
        "reload moves running workers",
        "plan.py",
        "        if kept is not None:\n            placed[worker.id] = kept\n",
        "        pass\n",
    ),
    Mutant(
        "policy change counts as another launch",
        "worker.py",
        "return self.held.launch != self.target.launch",
        "return self.held != self.target",
    ),
    Mutant(
        "grace never ends",
        "moves.py",
        "enter(worker, State.STOPPING, now, deadline=now + grace_s, reason=reason)",
        "enter(worker, State.STOPPING, now, reason=reason)",
    ),
    Mutant(
        "SIGKILL never sent",
        "ends.py",
        "return killed, (*ends, KillTree(worker.id, worker.incarnation))",
        "return killed, ends",
    ),
    Mutant(
        "what outlives the main process is not asked to end",
        "facts.py",
        "    return after, (rest,)",
        "    return after, ()",
    ),
    Mutant(
        "memory gate takes an old reading",
        "readings.py",
        "if inventory is None or inventory.asked_at < after:",
        "if inventory is None:",
    ),
    Mutant(
        "memory not waited for",
        "admission.py",
        'return ("; ".join(short), _look_at(turn, worker)) if short else None',
        "return None",
    ),
    Mutant(
        "new on a GPU while the driver errs",
        "admission.py",
        "if fleet.remembered.get(worker.id) == launch.slice",
        "if worker.starts",
    ),
    Mutant(
        "indices of an old inventory",
        "gpus.py",
        "        return Inventory(reading.devices, event.asked_at, reading.links), True\n",
        "        old = fleet.inventory.by_uuid if fleet.inventory else {}\n"
        "        return Inventory(tuple(old.get(one.uuid, one) for one in reading.devices), event.asked_at), True\n",
    ),
    Mutant(
        "occupied devices ignored at admission",
        "admission.py",
        "if holders := _in_the_way(turn, worker, launch):",
        "if (holders := _in_the_way(turn, worker, launch)) and False:",
    ),
    Mutant(
        "falls back to the CPU while the driver errs",
        "plan.py",
        "        if not self.supply.trusted:\n            return Placement(worker, None, reason=self.supply.detail)\n",
        "        if not self.supply.trusted:\n            return self._refuse(worker, self.supply.detail)\n",
    ),
    Mutant(
        "short slices handed out",
        "ledger.py",
        "        if free.bit_count() < count:\n            return None\n",
        "        count = min(count, free.bit_count())\n",
    ),
    Mutant(
        "driver in trouble is not asked again",
        "gpus.py",
        "    turn.set(look_at=turn.now + delay)",
        "    turn.set(look_at=None)",
        by="tests/core/test_gpus.py",
    ),
    Mutant(
        "removal forgotten in stopping",
        "intents.py",
        "return evolve(worker, target=None, relaunch=False), ()",
        "return worker, ()",
    ),
    Mutant(
        "stop of the operator forgotten in going down",
        "moves.py",
        "    if worker.down:\n        return to_stopped(worker, now)\n",
        "",
    ),
    Mutant(
        "failed workers keep their slice",
        "moves.py",
        "enter(freed(worker), State.FAILED, now,",
        "enter(evolve(worker, held=None), State.FAILED, now,",
    ),
    Mutant(
        "start timeout with exit 0 is no failure",
        "facts.py",
        "    if worker.cause is Cause.START_TIMEOUT:\n"
        "        return _charged(worker, Run(event.code, failed_to_start=True), now)\n",
        "    if worker.cause is Cause.START_TIMEOUT:\n        return _charged(worker, Run(event.code), now)\n",
        by="tests/core/test_worker_ends.py",
    ),
    Mutant(
        "fork refused by the system is charged",
        "facts.py",
        "    if event.errno in REFUSED_ERRNOS:\n",
        "    if event.errno in ():\n",
    ),
    Mutant(
        "lost shim is charged",
        "facts.py",
        "    verdict = worker.verdict or RestartAt(now)\n",
        "    worker = _charged(worker, Run(None), now)\n    verdict = worker.verdict\n",
    ),
    Mutant(
        "fleet changed in place",
        "turn.py",
        "            self._workers = dict(self.fleet.workers)\n",
        "            self._workers = self.fleet.workers  # type: ignore[assignment]\n",
    ),
    Mutant(
        "reload applied before the devices are read",
        "reload.py",
        "    if reload.spec is None or not reload.devices_read:\n",
        "    if reload.spec is None:\n",
    ),
    Mutant(
        "Exit although somebody lives",
        "fleet.py",
        "    if not turn.workers and not turn.fleet.exiting:\n",
        "    if not turn.fleet.occupied and not turn.fleet.exiting:\n",
    ),
    Mutant(
        "started before the devices are claimed",
        "admission.py",
        "if not claims.are_claimed(turn, launch):",
        "if False:",
    ),
    Mutant(
        "placed where another daemon is",
        "ledger.py",
        "device.is_usable and not device.is_cut and device.uuid not in supply.elsewhere",
        "device.is_usable and not device.is_cut",
        by="tests/core/test_claims.py",
    ),
    Mutant(
        "devices never let go",
        "claims.py",
        "    left = fleet.claimed - wanted\n",
        "    left = frozenset[str]()\n",
    ),
    Mutant(
        "devices let go under a process",
        "worker.py",
        "return frozenset(share.uuid for share in (*meant, *occupied))",
        "return frozenset(share.uuid for share in meant)",
    ),
    Mutant(
        "devices that another daemon lets go are never asked for again",
        "claims.py",
        "        turn.set(elsewhere=left)\n        turn.stale = True\n",
        "        turn.set(elsewhere=left)\n",
        by="tests/core/test_claims.py",
    ),
    # What the simulator found in the core, put back.
    Mutant(
        "those already going are called a difference",
        "rescale.py",
        '    actions |= dict.fromkeys(gone, "stop")\n',
        '    actions |= dict.fromkeys((one for one in turn.workers if one not in plan), "stop")\n',
    ),
    Mutant(
        "new command pays for the failures of the old one while it waits",
        "intents.py",
        "        # How the old one fared says nothing about the new one.\n        worker = renewed(worker)\n",
        "        pass\n",
    ),
    Mutant(
        "new launch pays for the end of the old one",
        "moves.py",
        " or (worker.held is not None and worker.held.launch != worker.target.launch):\n",
        ":\n",
        by="tests/core/test_worker_ends.py",
    ),
    Mutant(
        "fallback kept that the file does not allow any more",
        "plan.py",
        'allowed = current.living or worker.policy.on_no_gpu == "cpu"',
        "allowed = True",
        by="tests/core/test_fallback.py",
    ),
    Mutant(
        "fallback repeated that the file does not allow any more",
        "turn.py",
        'if worker.target.fallback and worker.policy.on_no_gpu != "cpu":',
        "if False:",
        by="tests/core/test_fallback.py",
    ),
    Mutant(
        "fallback shown of one that does not run",
        "moves.py",
        "target = evolve(worker.target, launch=None, fallback=False)",
        "target = evolve(worker.target, launch=None)",
    ),
    Mutant(
        "lost device not missed while the driver errs",
        "turn.py",
        "        if fleet.inventory is None:\n            return False\n",
        "        if fleet.inventory is None or not fleet.trusted:\n            return False\n",
        by="tests/core/test_gpus.py",
    ),
    Mutant(
        "driver in trouble is asked by everybody who waits",
        "turn.py",
        "if self.fleet.failures and not action.fresh:",
        "if False:",
    ),
    Mutant(
        "output of living processes stays where it went",
        "intents.py",
        "    after, actions = evolve(worker, target=event.placement), _redirect(worker, event)\n",
        "    after, actions = evolve(worker, target=event.placement), ()\n",
    ),
    Mutant(
        "output of processes on their way down stays where it went",
        "intents.py",
        "    return after, _redirect(worker, event)\n",
        "    return after, ()\n",
        by="tests/core/test_logs.py",
    ),
    Mutant(
        "a process starts with somebody's default output",
        "admission.py",
        "            logs=worker.policy.logs,\n",
        "            logs=type(worker.policy.logs)(),\n",
    ),
    Mutant(
        "grown workers of a stopped service run",
        "rescale.py",
        "born = new_worker(worker_id, placement, turn.now, down=turn.fleet.is_held(worker_id))",
        "born = new_worker(worker_id, placement, turn.now)",
    ),
    Mutant(
        "slices kept for those who are born held down",
        "preview.py",
        "if one.id not in known and fleet.is_held(one.id)}",
        "if False}",
        by="tests/core/test_orders.py",
    ),
    Mutant(
        "one started out of a stopped service is held again when it comes back",
        "orders.py",
        "            holds[worker] = False  # The service stays down, but for this one.\n",
        "            pass\n",
        by="tests/core/test_orders.py",
    ),
    Mutant(
        "a restart is forgotten by who is on its way down",
        "intents.py",
        "return evolve(worker, relaunch=worker.relaunch or (worker.target is not None and not worker.down)), ()",
        "return worker, ()",
    ),
    Mutant(
        "a restart leaves fallbacks on the CPU",
        "preview.py",
        "or (placement.fallback and is_asked)",
        "or False",
        by="tests/core/test_orders.py",
    ),
    Mutant(
        "a reload keeps the operator's counts",
        "reload.py",
        "    kept: dict[str, int] = {}\n",
        "    kept = {name: count for name, count in turn.fleet.scaled.items() if name in spec.services}\n",
    ),
    Mutant(
        "a reload under way takes back what was asked for since",
        "orders.py",
        "    if fleet.reload is not None:\n",
        "    if False:\n",
    ),
    Mutant(
        "parole without an end of it",
        "restart.py",
        "    if history.on_parole:\n",
        "    if False:\n",
    ),
    Mutant(
        "parole as often as the first time",
        "restart.py",
        "(PAROLE_FACTOR if history.on_parole else 1)",
        "1",
    ),
    Mutant(
        "parole for those who are never restarted",
        "restart.py",
        'if policy.parole_s == 0 or policy.policy == "never":',
        "if policy.parole_s == 0:",
    ),
    *ORDERS,
    *SOCKETS,
    *ROLLOUT,
    *SURGE,
    Mutant(
        "a GPU that is not cut any more goes unnoticed",
        "gpus.py",
        "device.health, device.is_cut)",
        "device.health)",
        by="tests/core/test_gpus.py",
    ),
    Mutant(
        "instances of a GPU in the pool are outside",
        "gpus.py",
        "        if device.parent is not None:\n            within",
        "        if False:\n            within",
        by="tests/core/test_gpus.py",
    ),
    Mutant(
        "an index in the pool is an instance's too",
        "gpus.py",
        "return device.parent is None and device.index == int(entry)",
        "return device.index == int(entry)",
        by="tests/core/test_gpus.py",
    ),
    Mutant(
        "only a worker's own process is its",
        "holders.py",
        "            pid = int(parent)\n",
        "            break\n",
        part="host",
        by="tests/host/test_holders.py",
    ),
    Mutant(
        "users are those of the first reading",
        "holders.py",
        "_read_users(self._users, _version_of(self._users))",
        "_read_users(self._users, None)",
        part="host",
        by="tests/host/test_holders.py",
    ),
    *SURROUNDINGS,
    *PLAN,
    *CUTS,
    Mutant(
        "time in which the daemon was frozen counted against workers",
        "fleet.py",
        "            stall.put_off(turn, lost_s)\n",
        "            pass\n",
    ),
    Mutant(
        "a stall begins every limit anew",
        "stall.py",
        "max(worker.deadline + lost_s, turn.now + sight_s)",
        "worker.deadline + lost_s + sight_s",
    ),
)
