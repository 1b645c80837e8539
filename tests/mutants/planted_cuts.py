"""Faults of GPUs that MIG cuts up, and of such as have the host's memory: which rule or test sees each."""

from __future__ import annotations

from tests.mutants.graft import Mutant

MEMORY = "tests/core/test_memory.py"
POOL = "tests/core/test_gpus.py"
TABLE = "tests/core/test_plan_table.py"

CUTS = (
    Mutant(
        "who lived on a GPU that was cut up is started there again",
        "turn.py",
        "one is None or not one.is_usable or one.is_cut or self",
        "one is None or not one.is_usable or self",
        by="tests/core/test_gpus.py",
    ),
    Mutant(
        "several instances given to one worker",
        "ledger.py",
        "        free &= ~ledger.instances  # A process sees one instance of MIG, and no GPU beside it.\n",
        "",
        by="tests/core/test_plan_table.py",
    ),
    Mutant(
        "all means every instance too",
        "ledger.py",
        "is_one_world = not every & self._ledger.instances or every.bit_count() == 1",
        "is_one_world = True",
        by="tests/core/test_plan_table.py",
    ),
    Mutant(
        "an instance told by the index of its GPU",
        "environment.py",
        "any(_device(moment, share).parent is not None for share in launch.slice)",
        "False",
    ),
    Mutant(
        "instances left out of a pool that has their GPU",
        "gpus.py",
        "            within.setdefault(device.parent, []).append(device)\n",
        "            pass\n",
    ),
    Mutant(
        "instances left out of a file that names their GPU",
        "matching.py",
        "if one.uuid in named or (one.parent in named and one.parent is not None))",
        "if one.uuid in named)",
        by=TABLE,
    ),
    Mutant(
        "an index means no instance where its GPU is not in the pool",
        "matching.py",
        "            if device.parent is None or device.parent not in self._by_uuid:\n",
        "            if device.parent is None:\n",
        by=POOL,
    ),
    Mutant(
        "a GPU that is cut up named, its instances not meant",
        "matching.py",
        "return tuple(self._instances.get(device.uuid, ())) if device.is_cut else (device,)",
        "return (device,)",
        by="tests/core/test_gpus.py",
    ),
    Mutant(
        "a GPU that is whole again not planned with",
        "gpus.py",
        "(device.uuid, device.index, device.health, device.is_cut) for",
        "(device.uuid, device.index, device.health) for",
        by="tests/core/test_gpus.py",
    ),
    Mutant(
        "what is declared of the host forgotten where a GPU has no other memory",
        "memory.py",
        "        declared += of_host.declared if by_books else 0\n",
        "",
        by="tests/core/test_memory.py",
    ),
    Mutant(
        "what the host's starting workers will take forgotten where a GPU has no other memory",
        "memory.py",
        "        untaken += of_host.untaken\n",
        "",
        by=MEMORY,
    ),
    Mutant(
        "who has memory of a unified GPU not looked at",
        "memory.py",
        "        free = total - sum(holder.used_bytes or 0 for holder in device.holders or ())\n",
        "        free = total\n",
        by=MEMORY,
    ),
    Mutant(
        "a unified GPU not free for what the host's processes have",
        "memory.py",
        "        free = total - sum(holder.used_bytes or 0 for holder in device.holders or ())\n",
        "        pass\n",
        by=MEMORY,
    ),
    Mutant(
        "what the host has taken believed to be what was declared of a unified GPU",
        "memory.py",
        "if device.is_unified and all(one.used_bytes is not None for one in strays):",
        "if False:",
        by=MEMORY,
    ),
)
