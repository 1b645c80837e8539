"""A master that starts workers of every kind, prints all pids below it, and waits to be killed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from contextlib import ExitStack
from pathlib import Path

import uvloop

from supervisor.core.message import Spawned
from supervisor.core.spec import WorkerId
from supervisor.host.tree import read_children
from tests.host.hung_exec import leased
from tests.host.processes_helpers import ENV, PYTHON, Pipe, Rig, eventually, parent_of, state_of
from tests.host.test_shim_trees import LEFT_BEHIND, PRELUDE


async def main(stuck: str, directory: Path) -> None:
    rig = Rig()
    await rig.processes.start()
    env = {"MARK": str(directory), **ENV}
    pids = []
    for index, text in enumerate(LEFT_BEHIND.values()):
        source = f"{PRELUDE}\nif os.fork() == 0:\n    {text}\n    os._exit(0)\ntime.sleep(1000)"
        pipe = Pipe()
        incarnation = rig.spawn(WorkerId("w", index), *PYTHON, source, env=env, fds={1: pipe.take_end()})
        pids.append((await rig.told(Spawned, incarnation)).pid)
        pids.append(int(await pipe.read_line()))
    shims = [parent_of(pid) for pid in pids[::2]]
    keeper = parent_of(shims[0])
    with ExitStack() as stack:
        if stuck == "exec":
            hung = rig.spawn(WorkerId("hung", 0), stack.enter_context(leased(directory)), "1000", env=env)
            await eventually(lambda: len(read_children(keeper)) == len(shims) + 1 and rig.about(hung) == [])
            shims.append(read_children(keeper)[-1])
            await eventually(lambda: len(read_children(shims[-1])) == 1)
        elif stuck != "nothing":
            victim = shims[0] if stuck == "shim" else keeper
            os.kill(victim, signal.SIGSTOP)
            await eventually(lambda: state_of(victim) == "T")
        sys.stdout.write(json.dumps([keeper, *shims, *pids]) + "\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], Path(sys.argv[2])))
