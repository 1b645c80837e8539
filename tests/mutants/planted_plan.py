"""Faults of the plan: which rule of the simulator sees each, or which table of tests where the simulator cannot."""

from __future__ import annotations

from tests.mutants.graft import Mutant

TABLE = "tests/core/test_plan_table.py"
COUNTS = "tests/core/test_counts.py"
SHARING = "tests/core/test_sharing.py"
TOPOLOGY = "tests/core/test_topology.py"

PLAN = (
    Mutant(
        "a share more than the whole",
        "ledger.py",
        "if self._heap is None:\n",
        "millis = min(millis, 1)\n        if self._heap is None:\n",
    ),
    Mutant(
        "declared memory forgotten",
        "ledger.py",
        "                self.declared[position] += self.need(memory, position)\n",
        "                pass\n",
    ),
    Mutant(
        "headroom given away",
        "ledger.py",
        "else total - headroom_bytes(headroom, total) - reserved",
        "else total - reserved",
    ),
    Mutant(
        "sick devices handed out",
        "ledger.py",
        "device.is_usable and not device.is_cut",
        "not device.is_cut",
    ),
    Mutant(
        "kinds not looked at",
        "plan.py",
        "            named &= self._matching.of_kind(request.gpu_type)\n",
        "",
    ),
    Mutant(
        "a share that has changed in the file kept",
        "plan.py",
        "        return len(devices) == 1 and devices[0].millis == gpu\n",
        "        return len(devices) == 1\n",
        by=SHARING,
    ),
    Mutant(
        "a bad filter half obeyed",
        "plan.py",
        "chosen = None if group.problem else self._choose(",
        "chosen = self._choose(",
        by=TABLE,
    ),
    Mutant(
        "counts follow the devices of themselves",
        "rescale.py",
        "    turn.set(sizes=with_ports(spec, cpu_count, sizes), sizes_due=False)\n",
        "    turn.set(sizes=with_ports(spec, cpu_count, sizes))\n",
        by=COUNTS,
    ),
    Mutant(
        "counts shrink of themselves",
        "preview.py",
        "max(size, floors.get(name, 1))",
        "size",
        by=COUNTS,
    ),
    Mutant(
        "an operator's count dropped where the file alone means as many",
        "spec.py",
        "if self.services[name].is_sized or len(",
        "if len(",
        by=COUNTS,
    ),
    Mutant(
        "fit takes what a foreign process has",
        "counts.py",
        "Planner(supply, spec.gpus, _foreign(supply, current))",
        "Planner(supply, spec.gpus)",
        by=COUNTS,
    ),
    Mutant(
        "more workers than ports",
        "counts.py",
        "    if not spec.scale(counts).has_port_problems(cpu_count):\n",
        "    if True:\n",
        by=COUNTS,
    ),
    Mutant(
        "shares opened on whole devices first",
        "ledger.py",
        "        return self._choose_one(self._ledger.empty & self.eligible)\n\n    def _catch_up",
        "        return None\n\n    def _catch_up",
        by=TABLE,
    ),
    Mutant(
        "the emptiest split device first",
        "ledger.py",
        "        return [WHOLE - ledger.taken[position]]\n",
        "        return [ledger.taken[position]]\n",
        by=TABLE,
    ),
    Mutant(
        "spread packs",
        "ledger.py",
        "return [len(ledger.holders[position]), is_part, ledger.taken[position]]",
        "return [-len(ledger.holders[position]), is_part, ledger.taken[position]]",
        by=TABLE,
    ),
    Mutant(
        "MIG instances joined",
        "ledger.py",
        "        free &= ~ledger.instances  # A process",
        "        # A process",
        by=TABLE,
    ),
    Mutant(
        "instances before whole GPUs",
        "ledger.py",
        "if gpus := free & ~ledger.instances:",
        "if gpus := free & ~ledger.instances if not free & ledger.instances else 0:",
        by=TABLE,
    ),
    Mutant(
        "a GPU that is cut up handed out",
        "matching.py",
        "            if not device.is_cut:\n",
        "            if True:\n",
        by=TABLE,
    ),
    Mutant(
        "intact islands broken up first",
        "topology.py",
        "return left > 1 and island & empty == island, left",
        "return island & empty != island, left",
        by=TABLE,
    ),
    Mutant(
        "links not looked at",
        "topology.py",
        "        for level in self.levels:\n            if level.is_flat:",
        "        for level in ():\n            if level.is_flat:",
        by=TABLE,
    ),
    Mutant(
        "the rest left in pieces",
        "topology.py",
        "found = (-rest, part & -part)",
        "found = (rest, part & -part)",
        by=TABLE,
    ),
    Mutant(
        "in a mesh anybody counts as linked",
        "sets.py",
        "self.extend(mine | low, open_to & self._linked[low.bit_length() - 1], missing - 1)",
        "self.extend(mine | low, open_to, missing - 1)",
        by=TOPOLOGY,
    ),
    Mutant(
        "what hangs on a device counts twice",
        "rests.py",
        "best = max(best, beside, size - sum(costs[:count]))",
        "best = max(best, beside, size - 2 * sum(costs[:count]))",
        by=TOPOLOGY,
    ),
    Mutant(
        "what hangs on a device alone is not known to",
        "rests.py",
        "        if beside.bit_count() == 1:\n",
        "        if False:\n",
        by=TOPOLOGY,
    ),
    Mutant(
        "sets given up that leave as much and more",
        "sets.py",
        "self._rest_of(mine) <= self.biggest:",
        "self._rest_of(mine) - missing <= self.biggest + 1:",
        by=TOPOLOGY,
    ),
)
