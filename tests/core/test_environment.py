"""What a worker finds: the rows of the contract's section 2 that exist, their order, and `$(NAME)`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import pytest

from supervisor.core.environment import Host, Moment, Rendered, device_env, fill, lacks_port, one_device, render, sites
from supervisor.core.inventory import Device
from supervisor.core.message import Site
from supervisor.core.plan import Launch, Share
from supervisor.core.spec import Percent, Recipe, WorkerId
from tests.core.builders import GIB, device, devices, uuid_of, whole

DAEMON_ONLY = [
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "LISTEN_PIDFDID",
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "LOCAL_RANK",
    "RANK",
    "WORLD_SIZE",
]
OTHER_VENDORS = [
    "NVIDIA_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "GPU_DEVICE_ORDINAL",
    "ZE_AFFINITY_MASK",
    "ONEAPI_DEVICE_SELECTOR",
]


def rendered(
    *gpus: int,
    recipe: Recipe,
    there: tuple[Device, ...] = devices(4),
    environ: Mapping[str, str] | None = None,
    vendors: frozenset[str] = frozenset(),
) -> Rendered:
    """Worker llm/2 of four at its third start, with these GPUs."""
    by_uuid = {one.uuid: one for one in there}
    moment = Moment(WorkerId("llm", 2), count=4, restarts=2, incarnation=9, devices=by_uuid)
    return render(Launch(recipe, whole(*gpus)), moment, Host(environ or {}, vendors))


PLAIN = Recipe(("serve",))


def env_of(
    *gpus: int, own: Mapping[str, str] | None = None, environ: Mapping[str, str] | None = None
) -> Mapping[str, str]:
    """Its environment, with these variables of the file and of the daemon."""
    recipe = replace(PLAIN, env=tuple(sorted((own or {}).items())))
    return rendered(*gpus, recipe=recipe, environ=environ).env


# ---- GPUs -----------------------------------------------------------------------------------------------------------


def test_a_slice_is_shown_as_indices_in_its_order_with_the_order_they_are_of() -> None:
    """Integers are right only in PCI order, so both are set together."""
    env = env_of(3, 1)

    assert (env["CUDA_VISIBLE_DEVICES"], env["CUDA_DEVICE_ORDER"]) == ("3,1", "PCI_BUS_ID")
    assert (env["WORKER_GPU_COUNT"], env["WORKER_GPU_INDICES"]) == ("2", "3,1")
    assert (env["WORKER_GPU_UUIDS"], env["WORKER_GPU_SHARE"]) == (f"{uuid_of(3)},{uuid_of(1)}", "1")


def test_indices_are_those_of_the_newest_inventory() -> None:
    """A device that was lost renumbers those behind it; the UUID stays."""
    there = (device(0), replace(device(2), index=1))

    env = rendered(2, recipe=PLAIN, there=there).env

    assert (env["CUDA_VISIBLE_DEVICES"], env["WORKER_GPU_UUIDS"]) == ("1", uuid_of(2))


def test_a_worker_without_a_gpu_sees_none() -> None:
    """Left out, the variable would show it every GPU."""
    env = env_of(environ={"CUDA_VISIBLE_DEVICES": "0,1", "CUDA_DEVICE_ORDER": "FASTEST_FIRST"})

    assert (env["CUDA_VISIBLE_DEVICES"], "CUDA_DEVICE_ORDER" in env) == ("-1", False)
    assert (env["WORKER_GPU_COUNT"], env["WORKER_GPU_INDICES"], env["WORKER_GPU_UUIDS"]) == ("0", "", "")


@pytest.mark.parametrize("gpus", [(), (0,)])
@pytest.mark.parametrize("name", OTHER_VENDORS)
def test_inherited_variables_of_other_vendors_are_removed(name: str, gpus: tuple[int, ...]) -> None:
    """Two of them would be applied one after the other, or mean nothing here."""
    assert name not in env_of(*gpus, environ={name: "0"})


def test_an_installed_vendors_gpus_are_hidden_from_a_worker_without_one() -> None:
    """And from a worker with GPUs of NVIDIA its variable is removed."""
    amd = frozenset({"amd"})

    assert rendered(recipe=PLAIN, vendors=amd).env["HIP_VISIBLE_DEVICES"] == "-1"
    assert "HIP_VISIBLE_DEVICES" not in rendered(0, recipe=PLAIN, vendors=amd).env


@pytest.mark.parametrize(
    ("memory", "shown"), [(None, None), (20 * GIB, "20480"), (GIB + 1, "1024"), (Percent(250), "20480")]
)
def test_declared_memory_is_shown_in_mebibytes(memory: int | Percent | None, shown: str | None) -> None:
    """On each of its GPUs, rounded down; a part is one of the device's whole memory."""
    env = rendered(0, 1, recipe=Recipe(("serve",), gpu_memory=memory)).env

    assert shown == env.get("WORKER_GPU_MEMORY_MIB")


def test_a_part_of_memory_that_is_not_known_is_not_shown() -> None:
    """A number that somebody made up would be believed."""
    there = (device(0, total=None, free=None),)

    assert "WORKER_GPU_MEMORY_MIB" not in rendered(0, recipe=Recipe(("x",), gpu_memory=Percent(500)), there=there).env
    assert rendered(0, recipe=Recipe(("x",), gpu_memory=GIB), there=there).env["WORKER_GPU_MEMORY_MIB"] == "1024"


# ---- the worker -----------------------------------------------------------------------------------------------------


def test_a_worker_finds_who_it_is() -> None:
    """Name, service, indices from 0 and from 1, how many there are, which start this is."""
    env = env_of()

    assert {
        "WORKER": "llm/2",
        "SERVICE_NAME": "llm",
        "WORKER_INDEX": "2",
        "WORKER_NUMBER": "3",
        "WORKER_COUNT": "4",
        "WORKER_RESTARTS": "2",
        "WORKER_INCARNATION": "9",
    }.items() <= env.items()


def test_a_port_is_found_where_there_is_one() -> None:
    """A PORT of the daemon's own environment goes through where the worker has none."""
    assert rendered(recipe=Recipe(("x",), port=8002), environ={"PORT": "1"}).env["PORT"] == "8002"
    assert env_of(environ={"PORT": "1"})["PORT"] == "1"
    assert "PORT" not in env_of()


def test_unbuffered_output_yields_to_anybody() -> None:
    """Logs of a Python program come at once unless somebody said otherwise."""
    assert env_of()["PYTHONUNBUFFERED"] == "1"
    assert env_of(environ={"PYTHONUNBUFFERED": "0"})["PYTHONUNBUFFERED"] == "0"
    assert env_of(environ={"PYTHONUNBUFFERED": "0"}, own={"PYTHONUNBUFFERED": ""})["PYTHONUNBUFFERED"] == ""


@pytest.mark.parametrize("name", DAEMON_ONLY)
def test_what_was_said_to_the_daemon_is_not_said_to_a_worker(name: str) -> None:
    """A worker that believed it would answer for the daemon, or take a rank that is not its own."""
    assert name not in env_of(environ={name: "1"})


def test_the_file_stands_above_the_daemons_environment_and_below_the_table() -> None:
    """A supervisor above this one has said WORKER too."""
    environ = {"HF_HOME": "/root", "LANG": "C", "WORKER": "outer/0", "WORKER_GPU_MEMORY_MIB": "1"}

    env = env_of(environ=environ, own={"HF_HOME": "/srv/hf", "RANK": "7"})

    assert (env["HF_HOME"], env["LANG"], env["RANK"], env["WORKER"]) == ("/srv/hf", "C", "7", "llm/2")
    assert "WORKER_GPU_MEMORY_MIB" not in env


# ---- $(NAME) --------------------------------------------------------------------------------------------------------


def test_names_are_replaced_in_command_directory_and_variables() -> None:
    """By their values in the worker's final environment."""
    recipe = Recipe(
        ("$(BIN)/serve", "--port=$(PORT)", "$$(HOME)", "$(date)", "$(NO_SUCH)"),
        (("BIN", "$(HOME)/bin"), ("NAME", "$(WORKER) on $(CUDA_VISIBLE_DEVICES)")),
        working_dir="$(HOME)/run/$(WORKER_INDEX)",
        port=8002,
    )

    found = rendered(1, recipe=recipe, environ={"HOME": "/home/ann"})

    assert found.argv == ("/home/ann/bin/serve", "--port=8002", "$(HOME)", "$(date)", "$(NO_SUCH)")
    assert found.working_dir == "/home/ann/run/2"
    assert found.env["NAME"] == "llm/2 on 1"


def test_a_variable_that_names_itself_finds_the_daemons() -> None:
    """`PATH: /opt/bin:$(PATH)` means what it says."""
    env = env_of(environ={"PATH": "/usr/bin"}, own={"PATH": "/opt/bin:$(PATH)"})

    assert env["PATH"] == "/opt/bin:/usr/bin"


def test_variables_name_each_other_in_any_order() -> None:
    """A chain is followed to its end, whichever comes first in the alphabet."""
    env = env_of(own={"A": "$(B)a", "B": "$(C)b", "C": "c", "Z": "$(A)$(B)"})

    assert (env["A"], env["B"], env["Z"]) == ("cba", "cb", "cbacb")


def test_a_literal_reference_stays_one() -> None:
    """A value is not read a second time when another variable takes it over."""
    env = env_of(own={"A": "$$(B)", "B": "b", "C": "$(A)"})

    assert (env["A"], env["C"]) == ("$(B)", "$(B)")


def test_variables_that_name_each_other_in_a_round_come_to_an_end() -> None:
    """Who stands last in the round finds what the daemon has, or nothing to replace."""
    with_base = env_of(environ={"A": "1"}, own={"A": "a$(B)", "B": "b$(C)", "C": "c$(A)"})
    without = env_of(own={"A": "a$(B)", "B": "b$(A)"})

    assert (with_base["A"], with_base["B"], with_base["C"]) == ("abc1", "bc1", "c1")
    assert (without["A"], without["B"]) == ("ab$(A)", "b$(A)")


def test_a_chain_of_thousands_is_followed() -> None:
    """It must not exhaust the interpreter's stack: the daemon would end, and every worker with it."""
    own = {f"V{number:05}": f"$(V{number + 1:05})" for number in range(5000)} | {"V05000": "end"}

    assert env_of(own=own)["V00000"] == "end"


# ---- what may be shown ----------------------------------------------------------------------------------------------


def test_only_the_contracts_table_may_be_shown() -> None:
    """Names that look like it are the user's, and so are their secrets."""
    env = rendered(
        1,
        recipe=Recipe(("x",), (("HF_TOKEN", "hush"), ("WORKER_API_KEY", "hush"), ("WORKER_SECRET", "hush")), port=8002),
        environ={"AWS_SECRET_ACCESS_KEY": "hush", "HOME": "/root"},
    ).env

    shown = device_env(env)

    assert "hush" not in shown.values()
    assert set(shown) == {
        "CUDA_DEVICE_ORDER",
        "CUDA_VISIBLE_DEVICES",
        "PORT",
        "PYTHONUNBUFFERED",
        "SERVICE_NAME",
        "WORKER",
        "WORKER_COUNT",
        "WORKER_GPU_COUNT",
        "WORKER_GPU_INDICES",
        "WORKER_GPU_SHARE",
        "WORKER_GPU_UUIDS",
        "WORKER_INCARNATION",
        "WORKER_INDEX",
        "WORKER_NUMBER",
        "WORKER_RESTARTS",
    }


# ---- UUIDs, shares, instances ---------------------------------------------------------------------------------------


INSTANCE = replace(device(1), uuid="MIG-5", parent=uuid_of(1), memory_total_bytes=10 * GIB)


def test_a_worker_pinned_by_uuid_sees_uuids() -> None:
    """In the slice's order; the indices are still told."""
    env = rendered(3, 1, recipe=Recipe(("x",), pin="uuid")).env

    assert env["CUDA_VISIBLE_DEVICES"] == f"{uuid_of(3)},{uuid_of(1)}" == env["WORKER_GPU_UUIDS"]
    assert env["WORKER_GPU_INDICES"] == "3,1"


@pytest.mark.parametrize("pin", ["auto", "index"])
def test_a_worker_pinned_by_index_sees_indices(pin: Literal["auto", "index"]) -> None:
    """They are what most programs can read."""
    assert rendered(2, recipe=Recipe(("x",), pin=pin)).env["CUDA_VISIBLE_DEVICES"] == "2"


@pytest.mark.parametrize("pin", ["auto", "index", "uuid"])
def test_an_instance_is_named_by_its_uuid_whatever_the_file_says(pin: Literal["auto", "index", "uuid"]) -> None:
    """It has no index of its own: that of its GPU would be the wrong thing."""
    launch = Launch(Recipe(("x",), pin=pin, gpu_memory=Percent(500)), (Share("MIG-5"),))
    there = {one.uuid: one for one in (*devices(4), INSTANCE)}

    env = render(launch, Moment(WorkerId("llm", 0), 1, 0, 1, there), Host()).env

    assert (env["CUDA_VISIBLE_DEVICES"], env["WORKER_GPU_INDICES"]) == ("MIG-5", "1")
    assert env["WORKER_GPU_MEMORY_MIB"] == "5120"


def test_a_share_is_a_number_to_calculate_with() -> None:
    """Also that of nothing."""
    launch = Launch(PLAIN, (Share(uuid_of(0), 250),))
    there = {one.uuid: one for one in devices(1)}

    assert render(launch, Moment(WorkerId("a", 0), 1, 0, 1, there), Host()).env["WORKER_GPU_SHARE"] == "0.25"
    assert env_of()["WORKER_GPU_SHARE"] == "0"


def test_a_part_of_the_memory_of_unlike_devices_is_what_all_of_them_have() -> None:
    """More would be on none but the largest."""
    there = (device(0, total=80 * GIB), device(1, total=40 * GIB))

    env = rendered(0, 1, recipe=Recipe(("x",), gpu_memory=Percent(250)), there=there).env

    assert env["WORKER_GPU_MEMORY_MIB"] == "10240"


def test_every_installed_vendors_gpus_are_hidden() -> None:
    """By one variable each."""
    env = rendered(recipe=PLAIN, vendors=frozenset({"amd", "intel"}), environ={"ZE_AFFINITY_MASK": "0"}).env

    assert {name: env.get(name) for name in OTHER_VENDORS} == dict.fromkeys(OTHER_VENDORS) | {
        "HIP_VISIBLE_DEVICES": "-1",
        "ONEAPI_DEVICE_SELECTOR": "*:cpu",
    }


# ---- threads --------------------------------------------------------------------------------------------------------


THREADS = {
    *("BENTOML_NUM_THREAD", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"),
    *("NUMEXPR_NUM_THREADS", "RAYON_RS_NUM_CPUS", "TF_NUM_INTEROP_THREADS", "TF_NUM_INTRAOP_THREADS"),
}


@pytest.mark.parametrize(("cpu", "threads"), [(4000, "4"), (500, "1"), (1500, "2"), (1, "1")])
def test_cores_are_told_in_the_nine_thread_variables(cpu: int, threads: str) -> None:
    """Rounded up: nobody has no thread. They may be shown."""
    env = rendered(recipe=Recipe(("x",), cpu=cpu)).env

    assert {name: env.get(name) for name in THREADS} == dict.fromkeys(THREADS, threads)
    assert set(device_env(env)) >= THREADS


def test_without_cores_no_thread_variable_is_set() -> None:
    """What the daemon has goes through."""
    assert not THREADS & env_of().keys()
    assert env_of(environ={"OMP_NUM_THREADS": "3"})["OMP_NUM_THREADS"] == "3"


def test_thread_variables_yield_to_the_file_and_not_to_the_daemons_environment() -> None:
    """The file speaks of this worker; what a login shell exports speaks of nobody."""
    recipe = Recipe(("x",), env=(("MKL_NUM_THREADS", "1"),), cpu=4000)

    env = rendered(recipe=recipe, environ={"OMP_NUM_THREADS": "7"}).env

    assert (env["OMP_NUM_THREADS"], env["MKL_NUM_THREADS"]) == ("4", "1")


# ---- MASTER_PORT ----------------------------------------------------------------------------------------------------


def ported(found: Rendered) -> Rendered:
    return fill(found, {"MASTER_PORT": "20001"}, ("MASTER_PORT",))


def test_a_worker_with_several_gpus_gets_a_port_to_meet_at() -> None:
    """Put in where the process is started, also where another text names it; over an inherited one."""
    recipe = Recipe(("serve", "--at=$(MASTER_PORT)"), (("URL", "tcp://:$(MASTER_PORT)"),))

    found = rendered(0, 1, recipe=recipe, environ={"MASTER_PORT": "1"})

    assert lacks_port(found.env)
    done = ported(found)
    assert (done.argv[1], done.env["MASTER_PORT"], done.env["URL"]) == ("--at=20001", "20001", "tcp://:20001")
    assert not lacks_port(done.env)


def test_a_worker_with_one_gpu_or_none_gets_no_port_unless_it_names_it() -> None:
    """A command that is the same for `gpu: all` and for a fallback keeps its meaning."""
    named = rendered(recipe=Recipe(("serve", "$(MASTER_PORT)")))

    assert "MASTER_PORT" not in env_of(0)
    assert env_of(0, environ={"MASTER_PORT": "1"})["MASTER_PORT"] == "1"
    assert ported(named).argv == ("serve", "20001")
    assert rendered(recipe=Recipe(("a", "$(MASTER_PORT)")), environ={"MASTER_PORT": "1"}).argv == ("a", "1")


def test_a_port_of_the_file_stays() -> None:
    """It is nobody's mistake to choose one's own."""
    found = rendered(0, 1, recipe=Recipe(("a", "$(MASTER_PORT)"), (("MASTER_PORT", "29500"),)))

    assert (found.argv[1], found.env["MASTER_PORT"], lacks_port(found.env)) == ("29500", "29500", False)


# ---- places ---------------------------------------------------------------------------------------------------------


def test_a_worker_near_its_devices_knows_where_they_are() -> None:
    """Each place once; an instance of MIG is where its GPU is; nothing where nobody asked."""
    there = {
        one.uuid: one for one in (*(replace(one, numa=one.index // 2) for one in devices(4)), replace(INSTANCE, pci=""))
    }
    moment = Moment(WorkerId("llm", 0), 1, 0, 1, there)
    slice_ = (*whole(3, 1), Share("MIG-5"))

    assert sites(Launch(PLAIN, slice_), moment) == ()
    assert sites(Launch(replace(PLAIN, near=True), slice_), moment) == (
        Site(there[uuid_of(3)].pci, 1),
        Site(there[uuid_of(1)].pci, 0),
    )


def test_a_command_beside_the_workers_finds_no_more_than_they_do_and_one_device() -> None:
    """What belongs to the daemon's own life is nobody else's."""
    environ = {**dict.fromkeys((*DAEMON_ONLY, *OTHER_VENDORS, "CUDA_VISIBLE_DEVICES"), "x"), "PATH": "/bin"}

    assert one_device(Host(environ), uuid_of(1)) == {
        "PATH": "/bin",
        "PYTHONUNBUFFERED": "1",
        "CUDA_VISIBLE_DEVICES": uuid_of(1),
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }
