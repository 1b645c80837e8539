"""A start that hangs, as on a dead disk, blocks its own shim and nobody else."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from supervisor.core.message import Exited, ShimLost, Spawned, TreeGone
from supervisor.host.tree import read_children
from tests.host.hung_exec import CannotHangError, leased, unanswered
from tests.host.processes_helpers import A, B, Rig, Watch, eventually, in_loop, state_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    Hang = Callable[[Path], AbstractContextManager[str]]

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("hang", [leased, unanswered])
@pytest.mark.parametrize("order", ["kill", "signal"])
@in_loop
async def test_hung_start_is_given_up_when_asked_and_delays_nobody(hang: Hang, order: str, tmp_path: Path) -> None:
    """Its neighbour starts and restarts meanwhile; asked to end it, the master kills the shim."""
    try:
        with hang(tmp_path) as program:
            async with Rig(patience_s=0.5) as rig:
                neighbour = rig.spawn(B, "sleep", "1000")
                await rig.told(Spawned, neighbour)
                hung = rig.spawn(A, program, "1000")
                shim = await find_hung_shim(rig)

                for _ in range(20):
                    rig.kill(B, neighbour)
                    await rig.told(Exited, neighbour, 2)
                    neighbour = rig.spawn(B, "sleep", "1000")
                    await rig.told(Spawned, neighbour, 2)
                assert rig.about(hung) == []

                with Watch(read_children(shim)[0]) as child:
                    if order == "kill":
                        rig.kill(A, hung)
                    else:
                        rig.signal(A, hung, signal.SIGTERM)
                    await rig.told(ShimLost, hung)
                    await rig.told(TreeGone, hung)
                    assert child.is_over
                assert (await rig.run(A, "true"))[0].code == 0
                assert rig.about(neighbour) == ["Spawned"]
    except CannotHangError as reason:
        pytest.skip(str(reason))


async def find_hung_shim(rig: Rig) -> int:
    """The shim of A, once its start hangs."""
    found: list[int] = []

    def look() -> bool:
        found[:] = [shim.peer.pid or 0 for shim in rig.processes._all.values() if shim.worker == A and shim.peer.pid]
        # A vfork holds its caller in an uninterruptible sleep until the child has exec'd.
        return bool(found) and len(read_children(found[0])) == 1 and state_of(found[0]) in "DS"

    assert await eventually(look)
    return found[0]


@in_loop
async def test_close_ends_a_hung_start(tmp_path: Path) -> None:
    """In bounded time, too."""
    try:
        with leased(tmp_path) as program:
            async with Rig() as rig:
                rig.spawn(A, program, "1000")
                watch = Watch(await find_hung_shim(rig))
            with watch:
                assert watch.is_over
    except CannotHangError as reason:
        pytest.skip(str(reason))
