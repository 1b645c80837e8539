"""
Asks CUDA in a process of its own which devices it shows, and gives up on it in time.

Maps no driver library itself; what the order is needed for is the business of whoever asks.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from supervisor.host.prober_client import Prober

if TYPE_CHECKING:
    from collections.abc import Mapping

    from supervisor.host.prober_client import Spawner

_DEADLINE_S = 30.0  # For each call; the driver may take seconds for each GPU to be initialised.
_END_DEADLINE_S = 2.0


class CudaError(Exception):
    """CUDA cannot tell, in words."""


async def read_cuda_order(
    processes: Spawner, environ: Mapping[str, str], *, deadline_s: float = _DEADLINE_S
) -> tuple[str, ...]:
    """
    What CUDA shows to a process with this environment.

    Args:
        processes: Where processes are started; has to be started itself.
        environ: With `CUDA_VISIBLE_DEVICES` and `CUDA_DEVICE_ORDER`, or without.
        deadline_s: For each of its calls.

    Returns:
        UUIDs without the ``GPU-`` or ``MIG-`` in front, which CUDA does not tell, in its order.

    Raises:
        CudaError: It has no answer, or none in time.
    """
    helper = Prober(processes, place=0, number=1, environ=environ, program="cuda")
    try:
        helper.ask(1, "order")
        while (line := await helper.wait_line(deadline_s)) is not None:
            message = json.loads(line)
            if "error" in message:
                raise CudaError(str(message["error"]))
            if "uuids" in message:
                return tuple(map(str, message["uuids"]))
            helper.calling = str(message["calling"])
        raise CudaError(await helper.describe_end(_END_DEADLINE_S))
    except TimeoutError:
        call = helper.calling or "the process that asks CUDA"
        raise CudaError(f"{call} has not answered for {deadline_s:g} s") from None
    finally:
        helper.kill()
        await helper.wait_gone(_END_DEADLINE_S)
