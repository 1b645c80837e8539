"""The faults: each is one that could be made by hand, and has to be seen by the simulator."""

from __future__ import annotations

from tests.mutants.graft import Mutant

MUTANTS = (
    Mutant(
        "slice freed when the main process ends",
        "facts.py",
        "    if event.alone:\n        return to_releasing(worker, now)\n    after = to_killing(",
        "    if event.alone or True:\n        return to_releasing(worker, now)\n    after = to_killing(",
    ),
    Mutant(
        "facts of old incarnations believed",
        "fleet.py",
        "if worker is not None and worker.incarnation == event.incarnation:",
        "if worker is not None:",
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
        "return evolve(worker, pid=event.pid, spawned_at=now), (stop,)",
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
        "if (kept := ledger.keep(worker, current.get(worker.id))) is not None:",
        "if worker.request.gpu == 0 and (kept := ledger.keep(worker, current.get(worker.id))) is not None:",
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
        "after = enter(worker, State.STOPPING, now, deadline=now + stop.timeout_s, reason=reason)",
        "after = enter(worker, State.STOPPING, now, reason=reason)",
    ),
    Mutant(
        "SIGKILL never sent",
        "facts.py",
        "return evolve(after, since=since, killed=True), (KillTree(worker.id, worker.incarnation),)",
        "return evolve(after, since=since, killed=True), ()",
    ),
    Mutant(
        "what outlives the main process is not asked to end",
        "facts.py",
        "    return after, (rest,)",
        "    return after, ()",
    ),
    Mutant(
        "memory gate takes an old reading",
        "admission.py",
        "if fleet.inventory is None or fleet.inventory.asked_at < after:",
        "if fleet.inventory is None:",
    ),
    Mutant(
        "memory not waited for",
        "admission.py",
        '    return "; ".join(short) or None',
        "    return None",
    ),
    Mutant(
        "memory of the dead counts as back at once",
        "gpus.py",
        "    return all(shortage(fleet, worker, share.uuid) is None for share in worker.occupied)",
        "    return True",
    ),
    Mutant(
        "new on a GPU while the driver errs",
        "admission.py",
        "return None if fleet.remembered.get(worker.id) == launch.slice else",
        "return None if worker.starts else",
    ),
    Mutant(
        "indices of an old inventory",
        "gpus.py",
        "        return Inventory(reading.devices, event.asked_at), True\n",
        "        old = fleet.inventory.by_uuid if fleet.inventory else {}\n"
        "        return Inventory(tuple(old.get(one.uuid, one) for one in reading.devices), event.asked_at), True\n",
    ),
    Mutant(
        "occupied devices ignored at admission",
        "admission.py",
        "if holders := _holders(turn, worker_id, launch):",
        "if (holders := _holders(turn, worker_id, launch)) and False:",
    ),
    Mutant(
        "nobody makes way",
        "admission.py",
        "if other.is_outdated and other.state in RUNNING and not stays:",
        "if False:",
    ),
    Mutant(
        "all replaced at once",
        "rescale.py",
        "            for worker in running[:1]:\n",
        "            for worker in running:\n",
    ),
    Mutant(
        "replaced while another is on its way",
        "rescale.py",
        "elif all(_is_settled(worker) for worker in workers if worker not in running):",
        "else:",
    ),
    Mutant(
        "failed canary does not halt the rest",
        "rescale.py",
        "        elif failed:\n",
        "        elif failed and False:\n",
    ),
    Mutant(
        "falls back to the CPU while the driver errs",
        "plan.py",
        "        if not self.supply.trusted:\n            return Placement(worker, None, reason=self.supply.detail)\n",
        "        if not self.supply.trusted:\n            return self._refuse(worker, self.supply.detail)\n",
    ),
    Mutant(
        "short slices handed out",
        "plan.py",
        "if count == 0 or len(free) < count:",
        "if not free:",
    ),
    Mutant(
        "driver in trouble is not asked again",
        "gpus.py",
        "    turn.set(deadline=turn.now + delay)",
        "    turn.set(deadline=None)",
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
        "return enter(freed(worker), State.FAILED, now, reason=reason), ()",
        "return enter(evolve(worker, held=None), State.FAILED, now, reason=reason), ()",
    ),
    Mutant(
        "start timeout with exit 0 is no failure",
        "facts.py",
        "    worker = _recorded(worker, event, now)\n"
        "    if worker.cause is Cause.START_TIMEOUT and worker.target is not None:\n"
        "        worker = _charged(worker, Run(event.code, failed_to_start=True), now)\n"
        "    return _bury(",
        "    worker = _recorded(worker, event, now)\n"
        "    if worker.cause is Cause.START_TIMEOUT and worker.target is not None:\n"
        "        worker = _charged(worker, Run(event.code), now)\n"
        "    return _bury(",
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
        "rescale.py",
        "    if reload.spec is None or not reload.devices_read:\n",
        "    if reload.spec is None:\n",
    ),
    Mutant(
        "Exit although somebody lives",
        "fleet.py",
        "    if not turn.workers and not turn.fleet.exiting:\n",
        "    if not turn.fleet.occupied and not turn.fleet.exiting:\n",
    ),
)
