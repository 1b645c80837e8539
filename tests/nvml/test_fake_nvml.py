"""The fake library behaves as NVML does, seen through the real binding."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.nvml.fake import FakeBox, symbol_of

# Runs each line it gets as an expression or statement, and answers the value, or the class of the error.
INTERPRETER = """
import json, sys
from pynvml import *
names = {**globals()}
def show(value):
    return value.decode("latin-1") if isinstance(value, bytes) else value
for line in sys.stdin:
    try:
        try:
            answer = {"value": show(eval(line, names))}
        except SyntaxError:
            exec(line, names)
            answer = {"value": None}
    except Exception as error:
        answer = {"error": type(error).__name__, "code": getattr(error, "value", None), "words": str(error)}
    print(json.dumps(answer, default=str), flush=True)
"""


class Binding:
    """The real binding in a process of its own, which sees a box."""

    def __init__(self, box: FakeBox) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", INTERPRETER],
            env={**os.environ, **box.env},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def value(self, line: str) -> Any:
        self.tell(line)
        answer = self.hear()
        assert "error" not in answer, answer
        return answer["value"]

    def code(self, line: str) -> int:
        self.tell(line)
        code = self.hear().get("code", 0)
        assert isinstance(code, int)
        return code

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def box(tmp_path: Path) -> FakeBox:
    return FakeBox(tmp_path, gpus=3)


@pytest.fixture
def binding(box: FakeBox) -> Iterator[Binding]:
    binding = Binding(box)
    yield binding
    binding.close()


@pytest.fixture
def nvml(binding: Binding) -> Binding:
    """A binding that is initialised, with the handles of its devices in `h`."""
    binding.value("nvmlInit()")
    binding.value("h = [nvmlDeviceGetHandleByIndex(i) for i in range(nvmlDeviceGetCount())]")
    return binding


def sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", "60"])


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def test_nothing_works_before_initialising(binding: Binding) -> None:
    """Every call before nvmlInit answers Uninitialized, once the library is loaded."""
    binding.value("nvmlInit()")
    binding.value("nvmlShutdown()")

    assert binding.code("nvmlDeviceGetCount()") == 1


def test_initialising_is_counted(nvml: Binding) -> None:
    """Who initialised twice has to shut down twice."""
    nvml.value("nvmlInit()")
    nvml.value("nvmlShutdown()")

    assert nvml.value("nvmlDeviceGetCount()") == 3
    nvml.value("nvmlShutdown()")
    assert nvml.code("nvmlDeviceGetCount()") == 1


def test_devices_are_found_by_index_uuid_and_pci_address(box: FakeBox, nvml: Binding) -> None:
    """All three ways lead to the same device, and what is not there has the library's own answers."""
    second = box.devices[1]

    assert nvml.value("nvmlDeviceGetUUID(h[1])") == second.uuid
    assert nvml.value(f"nvmlDeviceGetIndex(nvmlDeviceGetHandleByUUID('{second.uuid}'))") == 1
    assert nvml.value(f"nvmlDeviceGetIndex(nvmlDeviceGetHandleByPciBusId('00000000:{second.pci[5:]}'))") == 1
    assert nvml.value("nvmlDeviceGetMinorNumber(h[1])") == 1
    assert nvml.code("nvmlDeviceGetHandleByIndex(3)") == 2
    assert nvml.code("nvmlDeviceGetHandleByUUID('GPU-none')") == 6
    assert nvml.code("nvmlDeviceGetHandleByPciBusId('0000:ff:00.0')") == 6
    assert nvml.code("nvmlDeviceGetName(c_nvmlDevice_t())") == 2


def test_pci_info_has_every_form_of_the_address(box: FakeBox, nvml: Binding) -> None:
    """Numbers and both texts of the PCI address agree."""
    box.change(box.uuids[0], pci="0001:af:1f.0")

    nvml.value("p = nvmlDeviceGetPciInfo(h[0])")

    assert nvml.value("[p.domain, p.bus, p.device]") == [1, 0xAF, 0x1F]
    assert nvml.value("[p.busIdLegacy, p.busId]") == ["0001:AF:1F.0", "00000001:AF:1F.0"]


def test_memory_counts_the_reserved_part_as_the_two_versions_do(box: FakeBox, nvml: Binding) -> None:
    """The first version calls reserved memory used; the second keeps it apart; free is the same."""
    box.change(box.uuids[0], total_bytes=100, used_bytes=10, reserved_bytes=5)

    nvml.value("a = nvmlDeviceGetMemoryInfo(h[0]); b = nvmlDeviceGetMemoryInfo(h[0], nvmlMemory_v2)")

    assert nvml.value("[a.total, a.free, a.used]") == [100, 85, 15]
    assert nvml.value("[b.total, b.free, b.used, b.reserved]") == [100, 85, 10, 5]
    assert nvml.code("nvmlDeviceGetMemoryInfo(h[0], 0x3000028)") == 25


def test_memory_that_is_not_supported_says_so(box: FakeBox, nvml: Binding) -> None:
    """A GPU on unified memory refuses both versions of the question."""
    box.change(box.uuids[0], has_memory=False)

    assert nvml.code("nvmlDeviceGetMemoryInfo(h[0])") == 3
    assert nvml.code("nvmlDeviceGetMemoryInfo(h[0], nvmlMemory_v2)") == 3


def test_names_have_spaces_and_need_not_be_utf8(box: FakeBox, nvml: Binding) -> None:
    """A name goes through byte by byte, also where the binding then stumbles over it."""
    assert nvml.value("nvmlDeviceGetName(h[0])") == "NVIDIA H100 80GB HBM3"

    box.change(box.uuids[0], name=b"caf\xe9 GPU = 1")

    nvml.tell("nvmlDeviceGetName(h[0])")
    assert nvml.hear()["error"] == "UnicodeDecodeError"
    assert nvml.value("nvmlDeviceGetName.__wrapped__(h[0])") == "caf\xe9 GPU = 1"


def test_small_facts_are_the_ones_of_the_box(box: FakeBox, nvml: Binding) -> None:
    """Versions, utilization, temperature, power, NUMA and MIG mode come from the state file."""
    box.change(box.uuids[0], gpu_percent=40, memory_percent=7, celsius=55, milliwatts=300_000, numa=1)

    assert nvml.value("nvmlSystemGetDriverVersion()") == "580.65.06"
    assert nvml.value("nvmlSystemGetNVMLVersion()") == "13.580.65.06"
    assert nvml.value("[nvmlSystemGetCudaDriverVersion(), nvmlSystemGetCudaDriverVersion_v2()]") == [13000, 13000]
    assert nvml.value("[nvmlDeviceGetUtilizationRates(h[0]).gpu, nvmlDeviceGetUtilizationRates(h[0]).memory]") == [
        40,
        7,
    ]
    assert nvml.value("[nvmlDeviceGetTemperature(h[0], 0), nvmlDeviceGetTemperatureV(h[0], 0)]") == [55, 55]
    assert nvml.value("nvmlDeviceGetPowerUsage(h[0])") == 300_000
    assert nvml.value("nvmlDeviceGetEnforcedPowerLimit(h[0])") == 700_000
    assert nvml.value("[nvmlDeviceGetNumaNodeId(h[0]), list(nvmlDeviceGetMemoryAffinity(h[0], 1, 0))]") == [1, [2]]
    assert nvml.code("nvmlDeviceGetNumaNodeId(h[1])") == 3
    assert nvml.value("nvmlDeviceGetMigMode(h[0])") == [0, 0]
    assert nvml.value("nvmlDeviceGetPersistenceMode(h[0])") == 1
    assert nvml.value("nvmlDeviceGetComputeMode(h[0])") == 0
    box.change(box.uuids[0], persistence=False, compute=3)
    assert nvml.value("nvmlDeviceGetPersistenceMode(h[0])") == 0
    assert nvml.value("nvmlDeviceGetComputeMode(h[0])") == 3


def test_every_initialiser_and_error_string_is_there(nvml: Binding) -> None:
    """Programs that call the library without the binding use the other two forms of nvmlInit."""
    nvml.value("import ctypes; lib = ctypes.CDLL('libnvidia-ml.so.1')")

    assert nvml.value("[lib.nvmlInit(), lib.nvmlInit_v2()]") == [0, 0]
    assert nvml.value("nvmlErrorString(15)") == "GPU is lost"
    assert nvml.value("nvmlErrorString(12345)") == "Unknown Error"


def test_a_buffer_too_short_is_refused(nvml: Binding) -> None:
    """A text that does not fit answers Insufficient Size and writes nothing beyond the buffer."""
    nvml.value("from ctypes import *; b = create_string_buffer(8); lib = CDLL('libnvidia-ml.so.1')")

    assert nvml.value("lib.nvmlDeviceGetName(h[0], b, 8)") == 7
    assert nvml.value("lib.nvmlDeviceGetUUID(h[0], b, 8)") == 7
    assert nvml.value("lib.nvmlSystemGetDriverVersion(b, 4)") == 7
    assert nvml.value("b.raw == bytes(8)") is True


def test_memory_follows_living_processes(box: FakeBox, nvml: Binding) -> None:
    """A claim counts, and is listed, until its process ends; being a zombie is an end."""
    process = sleeper()
    box.claim(process.pid, box.uuids[0], 1000)
    box.claim(process.pid, box.uuids[1], 50)
    total = box.devices[0].total_bytes

    assert nvml.value("nvmlDeviceGetMemoryInfo(h[0]).free") == total - 1000
    assert nvml.value("nvmlDeviceGetMemoryInfo(h[1]).used") == 50
    assert nvml.value("[(p.pid, p.usedGpuMemory) for p in nvmlDeviceGetComputeRunningProcesses(h[0])]") == [
        [process.pid, 1000]
    ]
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert nvml.value("nvmlDeviceGetMemoryInfo(h[0]).free") == total
    assert nvml.value("nvmlDeviceGetComputeRunningProcesses(h[0])") == []
    process.wait()


def test_memory_of_the_dead_comes_back_when_the_test_says(box: FakeBox, nvml: Binding) -> None:
    """A release delay keeps the memory away after death, though the process is in no list any more."""
    box.release_after(-1)
    process = sleeper()
    box.claim(process.pid, box.uuids[0], 1000)
    end(process)

    assert nvml.value("nvmlDeviceGetMemoryInfo(h[0]).used") == 1000
    assert nvml.value("nvmlDeviceGetComputeRunningProcesses(h[0])") == []
    box.release_after(100)
    assert nvml.value("nvmlDeviceGetMemoryInfo(h[0]).used") == 1000
    nvml.value("import time; start = time.monotonic()")
    nvml.value("while nvmlDeviceGetMemoryInfo(h[0]).used and time.monotonic() - start < 10: time.sleep(0.005)")
    assert nvml.value("nvmlDeviceGetMemoryInfo(h[0]).used") == 0
    assert nvml.value("0.05 < time.monotonic() - start < 10") is True


def test_foreign_processes_are_listed_by_kind(box: FakeBox, nvml: Binding) -> None:
    """Each list has its own processes; memory that cannot be told is None."""
    box.list_process(box.uuids[0], 4711, None)
    box.list_process(box.uuids[0], 4712, 5, kind="graphics")
    box.list_process(box.uuids[0], 4713, 6, kind="mps")

    form = "[(p.pid, p.usedGpuMemory) for p in nvmlDeviceGet{}RunningProcesses_v3(h[0])]"
    assert nvml.value(form.format("Compute")) == [[4711, None]]
    assert nvml.value(form.format("Graphics")) == [[4712, 5]]
    assert nvml.value(form.format("MPSCompute")) == [[4713, 6]]
    assert nvml.value("nvmlDeviceGetComputeRunningProcesses(h[1])") == []


def test_mig_instances_are_found_by_place_with_gaps_between(box: FakeBox, nvml: Binding) -> None:
    """A GPU with MIG has places, some of them empty; without it there is nothing to look for."""
    first, second = box.cut(box.uuids[0], (1, 4), total_bytes=1000)
    box.change(box.uuids[2], mig="none")
    nvml.value("found = nvmlDeviceGetMigDeviceHandleByIndex")

    assert nvml.value("[nvmlDeviceGetMigMode(h[0]), nvmlDeviceGetMigMode(h[1])]") == [[1, 1], [0, 0]]
    assert nvml.code("nvmlDeviceGetMigMode(h[2])") == 3
    assert nvml.value("nvmlDeviceGetMaxMigDeviceCount(h[0])") == 7
    assert [nvml.code(f"found(h[0], {place})") for place in (0, 1, 2, 4, 7)] == [6, 0, 6, 0, 2]
    assert nvml.code("found(h[1], 0)") == 2
    nvml.value("m = [found(h[0], 1), found(h[0], 4)]")
    assert nvml.value("[nvmlDeviceGetUUID(each) for each in m]") == [first, second]
    assert nvml.value("[nvmlDeviceGetGpuInstanceId(m[0]), nvmlDeviceGetComputeInstanceId(m[0])]") == [8, 0]
    assert nvml.value("[nvmlDeviceIsMigDeviceHandle(each).value for each in (m[0], h[0])]") == [1, 0]
    assert nvml.value(f"nvmlDeviceGetUUID(nvmlDeviceGetHandleByUUID('{second}'))") == second
    assert nvml.code("nvmlDeviceGetMigMode(m[0])") == 2
    assert nvml.code("nvmlDeviceGetGpuInstanceId(h[0])") == 2


def test_an_instance_has_memory_of_its_own_which_its_gpu_has_too(box: FakeBox, nvml: Binding) -> None:
    """So it is with processes, which say in which instance they are."""
    first, _ = box.cut(box.uuids[0], (0, 1), total_bytes=1000)
    process = sleeper()
    box.claim(process.pid, first, 10)
    nvml.value("m = [nvmlDeviceGetMigDeviceHandleByIndex(h[0], place) for place in (0, 1)]")

    assert nvml.value("[nvmlDeviceGetMemoryInfo(each).free for each in m]") == [990, 1000]
    assert nvml.value("nvmlDeviceGetMemoryInfo(h[0]).used") == 10
    form = "[(p.pid, p.gpuInstanceId) for p in nvmlDeviceGetComputeRunningProcesses({})]"
    assert [nvml.value(form.format(where)) for where in ("h[0]", "m[0]", "m[1]")] == [[[process.pid, 7]]] * 2 + [[]]
    end(process)


def test_links_and_levels_are_the_ones_of_the_box(box: FakeBox, nvml: Binding) -> None:
    """Four links of each device, or none at all."""
    box.level(box.uuids[0], box.uuids[1], 10)
    box.nvlink(box.uuids[0], box.uuids[1], "switch", "unknown")

    assert nvml.value("[nvmlDeviceGetTopologyCommonAncestor(h[a], h[b]) for a, b in ((0, 1), (1, 0), (0, 2))]") == [
        *(10, 10, 40),
    ]
    assert nvml.value("[nvmlDeviceGetNvLinkState(h[0], link) for link in range(4)]") == [1, 1, 1, 0]
    assert nvml.value("nvmlDeviceGetNvLinkRemotePciInfo(h[0], 0).bus") == 0x11
    assert nvml.value("[nvmlDeviceGetNvLinkRemoteDeviceType(h[0], link) for link in (0, 1)]") == [0, 2]
    assert nvml.code("nvmlDeviceGetNvLinkRemotePciInfo(h[0], 2)") == 3
    assert [nvml.code("nvmlDeviceGetNvLinkState(h[0], 4)"), nvml.code("nvmlDeviceGetNvLinkState(h[1], 0)")] == [2, 3]


def test_a_call_fails_on_the_device_named_and_heals(box: FakeBox, nvml: Binding) -> None:
    """An error code strikes one call on one device, by index or UUID, until it is taken back."""
    box.fail("nvmlDeviceGetName", 1, 15)
    box.fail("nvmlDeviceGetUUID", box.uuids[2], 999)
    box.fail("nvmlDeviceGetHandleByIndex", 0, 4)

    assert [nvml.code(f"nvmlDeviceGetName(h[{i}])") for i in range(3)] == [0, 15, 0]
    assert [nvml.code(f"nvmlDeviceGetUUID(h[{i}])") for i in range(3)] == [0, 0, 999]
    assert [nvml.code(f"nvmlDeviceGetHandleByIndex({i})") for i in range(3)] == [4, 0, 0]
    box.heal()
    assert nvml.code("nvmlDeviceGetName(h[1])") == 0


def test_initialising_fails_as_told(box: FakeBox, binding: Binding) -> None:
    """The init code is the answer to nvmlInit, until it is healed."""
    for code in (9, 4, 18, 999):
        box.init_code(code)
        assert binding.code("nvmlInit()") == code

    box.heal()
    assert binding.code("nvmlInit()") == 0


def test_a_dropped_symbol_looks_like_an_older_library(box: FakeBox, nvml: Binding) -> None:
    """The binding answers Function Not Found, as it does for a symbol that is not there."""
    box.drop_symbol("nvmlDeviceGetMemoryInfo_v2")

    assert nvml.code("nvmlDeviceGetMemoryInfo(h[0], nvmlMemory_v2)") == 13
    assert nvml.code("nvmlDeviceGetMemoryInfo(h[0])") == 0


def test_an_absent_library_is_not_found_until_it_comes(box: FakeBox, binding: Binding) -> None:
    """A process that has not loaded it finds no library, and finds it once it is there."""
    box.absent()
    assert binding.code("nvmlInit()") == 12

    box.heal()
    assert binding.code("nvmlInit()") == 0


def test_a_delayed_call_takes_its_time(box: FakeBox, nvml: Binding) -> None:
    """A delay holds one call up and no other."""
    box.delay("nvmlDeviceGetName", 1, 80)

    nvml.value("import time; start = time.monotonic(); nvmlDeviceGetName(h[0]); quick = time.monotonic() - start")
    nvml.value("start = time.monotonic(); nvmlDeviceGetName(h[1]); slow = time.monotonic() - start")
    assert nvml.value("quick < slow and slow >= 0.08") is True


def test_a_hanging_call_is_deaf_and_goes_on_when_healed(box: FakeBox, nvml: Binding) -> None:
    """SIGTERM does not end a hanging call; taking the rule away does."""
    box.hang("nvmlDeviceGetName", 0)
    nvml.tell("nvmlDeviceGetName(h[0])")
    wait_for_call(box, "nvmlDeviceGetName")
    wait_for_blocked_sigterm(nvml.process.pid)
    nvml.process.terminate()
    box.heal()

    # The signal, which was waiting all the time, strikes when the call is over.
    assert nvml.process.wait(10) == -signal.SIGTERM


def test_a_hanging_call_can_be_killed(box: FakeBox, nvml: Binding) -> None:
    """SIGKILL ends a process in a hanging call."""
    box.hang("nvmlDeviceGetName")
    nvml.tell("nvmlDeviceGetName(h[2])")
    wait_for_call(box, "nvmlDeviceGetName")
    nvml.process.kill()

    assert nvml.process.wait(10) == -signal.SIGKILL


def test_a_crashing_call_ends_its_process(box: FakeBox, nvml: Binding) -> None:
    """A crash is a SIGSEGV, which no handler of the program gets."""
    box.crash("nvmlDeviceGetName", 1)
    assert nvml.code("nvmlDeviceGetName(h[0])") == 0

    nvml.tell("nvmlDeviceGetName(h[1])")

    assert nvml.process.wait(10) == -signal.SIGSEGV


def test_devices_are_those_of_the_initialisation(box: FakeBox, nvml: Binding) -> None:
    """A device that comes is seen after the next nvmlInit only; then indices are counted anew."""
    added = box.add(at=0)

    assert nvml.value("nvmlDeviceGetCount()") == 3
    nvml.value("nvmlShutdown()")
    nvml.value("nvmlInit()")
    assert nvml.value("nvmlDeviceGetCount()") == 4
    assert nvml.value("nvmlDeviceGetUUID(nvmlDeviceGetHandleByIndex(0))") == added.uuid


def test_a_device_pulled_out_is_lost(box: FakeBox, nvml: Binding) -> None:
    """Its handle answers GPU is lost, its index Unknown Error, and the others go on."""
    box.remove(box.uuids[1])

    assert nvml.value("nvmlDeviceGetCount()") == 3
    assert nvml.code("nvmlDeviceGetUUID(h[1])") == 15
    assert nvml.code("nvmlDeviceGetHandleByIndex(1)") == 999
    assert nvml.code("nvmlDeviceGetUUID(h[2])") == 0


def test_a_live_box_shows_devices_come_and_go(tmp_path: Path) -> None:
    """With `live` the count follows the box, and a handle keeps meaning its device."""
    box = FakeBox(tmp_path, gpus=2, live=True)
    nvml = Binding(box)
    nvml.value("nvmlInit()")
    nvml.value("h = [nvmlDeviceGetHandleByIndex(i) for i in range(2)]")

    box.remove(box.uuids[0])
    assert nvml.value("nvmlDeviceGetCount()") == 1
    assert nvml.value("nvmlDeviceGetUUID(h[1])") == box.uuids[0]
    assert nvml.value("nvmlDeviceGetIndex(h[1])") == 0
    nvml.close()


def test_calls_are_logged_with_process_and_device(box: FakeBox, nvml: Binding) -> None:
    """The log tells who called what on which device, in order."""
    nvml.value("nvmlDeviceGetName(h[2])")

    calls = box.calls()
    assert [(call.name, call.device) for call in calls[:2]] == [
        ("nvmlInitWithFlags", None),
        ("nvmlDeviceGetCount_v2", None),
    ]
    assert [(call.pid, call.device) for call in box.calls("nvmlDeviceGetName")] == [(nvml.process.pid, 2)]


def test_a_rule_for_a_function_that_is_not_there_is_refused(box: FakeBox) -> None:
    """A misspelt call in a test is an error, not a rule that never acts."""
    with pytest.raises(ValueError, match="nvmlDeviceGetNane"):
        box.fail("nvmlDeviceGetNane", 0, 1)

    assert symbol_of("nvmlDeviceGetPciInfo") == "nvmlDeviceGetPciInfo_v3"


def test_a_broken_state_file_is_loud(box: FakeBox) -> None:
    """A statement that the library does not know makes every call fail, and is named on standard error."""
    program = textwrap.dedent("""
        import pynvml
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            print(error.value)
    """)
    Path(box.env["FAKE_NVML_STATE"]).write_text("devise uuid=GPU-1\n")

    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **box.env}, capture_output=True, text=True, check=True
    )

    assert done.stdout == "999\n"
    assert 'unknown statement "devise"' in done.stderr


def wait_for_call(box: FakeBox, name: str) -> None:
    due = time.monotonic() + 10
    while not box.calls(name):
        assert time.monotonic() < due, f"nobody called {name}"
        time.sleep(0.005)


def wait_for_blocked_sigterm(pid: int) -> None:
    due = time.monotonic() + 10
    while True:
        status = Path(f"/proc/{pid}/status").read_text()
        blocked = int(next(line.split()[1] for line in status.splitlines() if line.startswith("SigBlk:")), 16)
        if blocked & 1 << signal.SIGTERM - 1:
            return
        assert time.monotonic() < due, "it does not hang"
        time.sleep(0.005)
