"""Row of section 2b: the leader is killed, its grandchild ignores SIGTERM and holds the GPU."""

from __future__ import annotations

import os
import signal

import pytest

from tests.conformance.adapter import Program
from tests.conformance.conftest import Supervise
from tests.nvml.fake import FakeBox

pytestmark = pytest.mark.slow

# Who has memory of the device, as nvidia-smi would list it: claims of living processes.
SERVER = """
def holders():
    return [one.name for one in pathlib.Path(os.environ["FAKE_NVML_CLAIMS"]).iterdir()
            if one.name.isdecimal() and is_alive(int(one.name))]

say("serve", *holders())

def engine():
    os.setsid()
    deaf()
    half = pathlib.Path(os.environ["FAKE_NVML_CLAIMS"], f"{os.getpid()}.new")
    half.write_text(f"UUID {60 << 30}\\n")
    half.rename(half.with_suffix(""))

child(engine)
say("loaded")
forever()
"""


def test_no_second_server_is_started_on_a_held_gpu(supervise: Supervise, box: FakeBox) -> None:
    """The one that is started in its place looks who has memory of the device."""
    one = supervise(llm=Program(SERVER.replace("UUID", box.uuids[0]), gpu=1), box=box)
    one.wait_diary("loaded")
    leader = one.wait_state("up")["llm/0"].pid
    assert leader is not None

    os.kill(leader, signal.SIGKILL)
    second = one.wait_diary("serve", times=2)[1]

    assert second.rest == (), "starts a second server on a GPU that the first one's engine still holds"
