"""The JSON of the contract's section 4: its keys, its values, and what must never be in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from supervisor.core.environment import device_env
from supervisor.core.inventory import Holder
from supervisor.core.message import HostRead, ReloadRequested, Spawn, SpecRejected
from supervisor.core.preview import preview
from supervisor.core.snapshot import View, make_devices, make_plan_json, make_status
from supervisor.core.spec import Spec, WorkerId
from supervisor.front.verdict import has_no_place
from tests.core.builders import GIB, bad, device, devices, good, of_type, spec_of, uuid_of
from tests.core.stage import Stage, running

SPEC = spec_of(llm={"workers": 2, "resources": {"gpu": 1, "gpu_memory": "20GiB"}, "port": 8000})


def view_of(stage: Stage) -> View:
    envs: Mapping[WorkerId, Mapping[str, str]] = {
        spawn.worker: device_env(spawn.env) for spawn in of_type(Spawn, stage.history)
    }
    return View(rfc3339=lambda second: f"T+{second:g}", pid=42, version="0.1.0", file="demo.yaml", envs=envs)


def status(stage: Stage) -> Any:
    """The status as it comes out at the other end of a wire."""
    return json.loads(json.dumps(make_status(stage.fleet, view_of(stage))))


def plan(stage: Stage, spec: Spec) -> Any:
    return json.loads(json.dumps(make_plan_json(stage.fleet, preview(stage.fleet, spec, 1), view_of(stage))))


# ---- keys -----------------------------------------------------------------------------------------------------------


def test_the_status_has_the_contracts_keys() -> None:
    """Programs are written against them."""
    stage = running(SPEC, *devices(2)).at(100.0).exited("llm/0")
    stage.meet(ReloadRequested())
    stage.meet(SpecRejected(("demo.yaml:4:5: unknown key",)))

    found = status(stage)

    assert set(found) == {"daemon", "services", "devices"}
    assert set(found["daemon"]) == {
        *("pid", "version", "file", "instance", "unit", "state", "since", "generation", "reload", "gpu", "http"),
    }
    assert set(found["daemon"]["reload"]) == {"at", "ok", "problems"}
    assert set(found["daemon"]["gpu"]) == {"state", "detail", "since"}
    (service,) = found["services"]
    assert set(service) == {"name", "target", "ready", "scaled", "listen", "workers"}
    assert set(service["workers"][0]) == {
        *("worker", "index", "state", "pid", "incarnation", "since", "restarts", "reason", "fallback", "port"),
        *(
            "listen",
            "gpus",
            "env",
            "limits",
            "gpu_limits",
            "release",
            "last_exit",
            "next_start",
            "status_text",
            "ready_by",
            "time_to_ready",
        ),
    }
    assert set(service["workers"][0]["gpus"][0]) == {"uuid", "index", "share"}
    assert set(service["workers"][0]["last_exit"]) == {
        *("code", "signal", "cause", "detail", "at", "tail", "core_dumped"),
    }


def test_a_device_has_the_contracts_keys_and_when_its_memory_was_read() -> None:
    """Numbers of memory are worth little without their second."""
    found = status(running(SPEC, *devices(2)))["devices"][0]

    assert set(found) == {
        *("uuid", "index", "name", "type", "pci", "numa", "health", "reason", "memory", "workers", "foreign"),
        *("parent", "mig", "in_pool", "health_since", "health_until", "throttle", "strikes", "xids"),
    }
    assert set(found["memory"]) == {"total", "free", "declared", "read_at", "unified"}


def test_holders_that_are_none_of_ours_are_foreign() -> None:
    """Whom the driver does not tell is not known, which is not nobody."""
    holders = (Holder(7, 5, "python", "ann"), Holder(8, None, "sh", "bob", "llm/0"))
    known, nobody = replace(device(0), holders=holders), replace(device(1), holders=())

    found = status(running(SPEC, known, nobody, device(2)))["devices"]

    assert [each["foreign"] for each in found] == [[{"pid": 7, "name": "python", "user": "ann", "bytes": 5}], [], None]


def test_what_the_daemon_may_not_hand_out_is_outside_the_pool() -> None:
    """Shown all the same: it is a device of the machine."""
    stage = Stage(pool=("1",)).load(SPEC).read(good(*devices(2)))

    assert [each["in_pool"] for each in status(stage)["devices"]] == [False, True]


def test_an_instance_names_its_gpu() -> None:
    """And the GPU says that it was cut up."""
    gpu = replace(device(0), is_cut=True)
    instance = replace(device(0), uuid="MIG-1", parent=gpu.uuid)

    found = status(running(SPEC, gpu, instance, device(1)))["devices"]

    assert [(each["parent"], each["mig"]) for each in found] == [(None, True), (gpu.uuid, False), (None, False)]


def test_devices_alone_have_the_drivers_state_beside_them() -> None:
    """`devices --json`."""
    stage = running(SPEC, *devices(2))

    found = make_devices(stage.fleet, view_of(stage))

    assert set(found) == {"gpu", "devices"}
    assert found["devices"] == status(stage)["devices"]
    assert found["gpu"] == {"state": "ok", "detail": "", "since": "T+0"}


def test_a_plan_has_the_contracts_keys() -> None:
    """Device by device and worker by worker."""
    found = plan(Stage().read(good(*devices(1))), SPEC)

    assert set(found) == {"gpu", "devices", "workers"}
    keys = {"worker", "wanted", "placed", "gpus", "fallback", "listen", "gpu_limits", "reason", "action"}
    assert set(found["workers"][0]) == keys
    assert found["devices"][0]["workers"] == ["llm/0"]


# ---- values ---------------------------------------------------------------------------------------------------------


def test_a_running_worker_is_shown_with_all_that_it_has() -> None:
    """Identity, place, port, environment."""
    stage = running(SPEC, *devices(2))

    worker = status(stage)["services"][0]["workers"][1]

    assert worker.pop("env")["CUDA_VISIBLE_DEVICES"] == "1"
    assert worker == {
        "worker": "llm/1",
        "index": 1,
        "state": "ready",
        "pid": 1002,
        "incarnation": 2,
        "since": "T+0",
        "restarts": 0,
        "reason": "",
        "fallback": None,
        "port": 8001,
        "listen": [],
        "gpus": [{"uuid": uuid_of(1), "index": 1, "share": 1.0}],
        "limits": None,
        "gpu_limits": None,
        "status_text": None,
        "ready_by": None,
        "time_to_ready": 0.0,
        "release": None,
        "last_exit": None,
        "next_start": None,
    }


def test_an_ended_worker_shows_how_it_ended_and_when_it_comes_back() -> None:
    """Without a process there is no pid."""
    stage = running(spec_of(web={"command": "serve"})).pass_time(10.0).exited("web/0", None, signal=9)

    worker = status(stage)["services"][0]["workers"][0]

    assert (worker["state"], worker["pid"], worker["reason"]) == ("backoff", None, "ended by SIGKILL")
    assert worker["last_exit"] == {
        "code": None,
        "signal": "SIGKILL",
        "cause": "signal",
        "detail": "",
        "at": "T+10",
        "core_dumped": False,
        "tail": ["last words"],
    }
    assert worker["next_start"] == f"T+{stage['web/0'].deadline:g}"


def test_restarts_count_processes_after_the_first() -> None:
    """Whatever the cause."""
    stage = running(spec_of(web={"restart": {"delay": "0s", "max_delay": "0s"}}))
    assert status(stage)["services"][0]["workers"][0]["restarts"] == 0

    stage.exited("web/0").spawned("web/0").shim_lost("web/0").tree_gone("web/0")

    assert status(stage)["services"][0]["workers"][0]["restarts"] == 2


def test_a_worker_that_never_ran_has_no_numbers_yet() -> None:
    """Unknown is null."""
    stage = Stage().load(SPEC)

    worker = status(stage)["services"][0]["workers"][0]

    assert (worker["pid"], worker["incarnation"], worker["restarts"], worker["gpus"]) == (None, None, 0, [])
    assert worker["reason"] == "the GPUs have not been read yet"
    assert status(stage)["daemon"]["gpu"]["state"] is None
    assert (status(stage)["devices"], status(stage)["daemon"]["reload"]) == ([], None)


def test_a_fallback_is_never_silent() -> None:
    """Status says that it is one, and why."""
    spec = spec_of(llm={"resources": {"gpu": 1}, "on_no_gpu": "cpu"})
    stage = Stage().load(spec).read(good()).ready("llm/0").at(100.0)
    stage.reload(spec, good(*devices(1)))

    worker = status(stage)["services"][0]["workers"][0]

    assert (worker["fallback"], worker["gpus"]) == ("cpu", [])
    assert worker["reason"].endswith(": needs 1 GPU, there is none")


def test_devices_show_what_is_declared_and_by_whom() -> None:
    """A reservation is no holding; health and its reason are as read."""
    stage = running(SPEC, device(0), device(1, free=None, total=None), device(2, sick=True))

    first, second, third = status(stage)["devices"]

    assert (first["workers"], second["workers"], third["workers"]) == (["llm/0"], ["llm/1"], [])
    assert first["memory"] == {
        "total": 80 * GIB,
        "free": 79 * GIB,
        "declared": 20 * GIB,
        "read_at": "T+0",
        "unified": False,
    }
    assert (second["memory"]["total"], second["memory"]["free"]) == (None, None)
    assert (first["pci"], first["numa"], first["foreign"]) == ("0000:10:00.0", 0, None)
    assert (third["health"], third["reason"]) == ("lost", "fallen off the bus")


def test_services_are_in_file_order_and_those_on_their_way_out_come_last() -> None:
    """A removed one is shown until its last process is gone."""
    stage = running(spec_of(old={"workers": 2}, zeta={}, alpha={})).pass_time(5.0)
    stage.reload(spec_of(zeta={}, alpha={"workers": 0}), good())

    found = [(one["name"], one["target"], len(one["workers"])) for one in status(stage)["services"]]

    assert found == [("zeta", 1, 1), ("alpha", 0, 1), ("old", 0, 2)]


def test_the_daemon_tells_what_it_does() -> None:
    """And how the last reload ended."""
    stage = Stage().load(SPEC)
    assert status(stage)["daemon"]["state"] == "starting"

    stage.read(good()).at(5.0).meet(ReloadRequested())
    assert status(stage)["daemon"]["state"] == "reloading"

    stage.at(6.0).meet(SpecRejected(("demo.yaml:4:5: unknown key",)))
    daemon = status(stage)["daemon"]

    assert daemon["reload"] == {"at": "T+6", "ok": False, "problems": ["demo.yaml:4:5: unknown key"]}
    assert (daemon["pid"], daemon["version"], daemon["file"], daemon["state"]) == (42, "0.1.0", "demo.yaml", "running")
    assert daemon["generation"] == 1


def test_a_driver_in_trouble_is_shown_with_its_words() -> None:
    """Since when it is in that state, not since when it last said so."""
    stage = running(SPEC, *devices(2)).at(10.0).read(bad(detail="slow")).at(15.0).read(bad(detail="slower"))

    assert status(stage)["daemon"]["gpu"] == {"state": "unresponsive", "detail": "slower", "since": "T+10"}


# ---- plans ----------------------------------------------------------------------------------------------------------


def test_a_plan_without_a_daemon_starts_what_has_a_place() -> None:
    """The rest waits, with the arithmetic; a fallback and a worker without a GPU are placed too."""
    spec = spec_of(
        llm={"workers": 2, "resources": {"gpu": 1}},
        any={"resources": {"gpu": 1}, "on_no_gpu": "cpu"},
        web={},
    )

    rows = {row["worker"]: row for row in plan(Stage().read(good(*devices(1))), spec)["workers"]}

    assert {name: (row["placed"], row["action"]) for name, row in rows.items()} == {
        "llm/0": (True, "start"),
        "llm/1": (False, "wait"),
        "any/0": (True, "start"),
        "web/0": (True, "start"),
    }
    assert rows["llm/1"]["reason"] == "needs 1 GPU, 0 of 1 are free; reserved for llm/0"
    assert (rows["any/0"]["fallback"], rows["web/0"]["fallback"]) == ("cpu", None)


def test_a_plan_beside_a_daemon_says_what_it_would_do_to_what_runs() -> None:
    """Keep, start, replace, stop; and nothing is done."""
    gpu = {"resources": {"gpu": 1}}
    stage = running(spec_of(same=gpu, changed=gpu, removed={}), *devices(3)).pass_time(10.0)
    before = stage.fleet

    rows = plan(stage, spec_of(same=gpu, changed={**gpu, "command": "new"}, added=gpu))["workers"]

    assert {row["worker"]: (row["action"], row["placed"]) for row in rows} == {
        "same/0": ("keep", True),
        "changed/0": ("replace", True),
        "added/0": ("start", True),
        "removed/0": ("stop", False),
    }
    assert stage.fleet is before


# ---- secrets --------------------------------------------------------------------------------------------------------


def test_secrets_of_the_environment_are_nowhere_in_it() -> None:
    """Neither the file's nor the daemon's own."""
    spec = spec_of(llm={"env": {"HF_TOKEN": "hush-1", "WORKER_TOKEN": "hush-2"}, "command": "serve --key $(HF_TOKEN)"})
    stage = Stage(environ={"AWS_SECRET_ACCESS_KEY": "hush-3"}).load(spec).read(good()).spawned("llm/0").exited("llm/0")

    texts = [json.dumps(one) for one in (status(stage), plan(stage, spec), make_devices(stage.fleet, view_of(stage)))]

    assert not [text for text in texts if "hush" in text]


def test_a_device_has_the_name_of_its_kind() -> None:
    """As a file would ask for it; null for what has no such name."""
    stage = Stage().load(spec_of(llm={})).read(good(device(0), replace(device(1), name="NVIDIA L40")))

    kinds = [one["type"] for one in make_devices(stage.fleet, view_of(stage))["devices"]]

    assert kinds == ["nvidia-h100-80gb", None]


def test_the_plan_says_wait_of_those_that_wait() -> None:
    """Without a place, for memory that is busy, and for more of the host's memory than there is, which is no place."""
    spec = spec_of(
        a={"resources": {"gpu": 3}},
        b={"resources": {"gpu": 1, "gpu_memory": "60GiB"}, "port": 8000},
        c={"resources": {"memory": "1TiB"}, "port": 8100},
    )
    stage = Stage()
    stage.host = (60 * GIB, 64 * GIB)
    stage.load(spec).read(good(device(0, free=20 * GIB)))
    found = {row["worker"]: row for row in plan(stage, spec)["workers"]}

    assert {name: row["action"] for name, row in found.items()} == dict.fromkeys(("a/0", "b/0", "c/0"), "wait")
    assert {name: row["placed"] for name, row in found.items()} == {"a/0": False, "b/0": True, "c/0": False}
    assert [name for name, row in found.items() if has_no_place(row)] == ["a/0", "c/0"]
    assert found["b/0"]["reason"].startswith("needs 61440 MiB")
    assert "there are 65536 MiB in all" in found["c/0"]["reason"]


def test_who_will_never_have_the_hosts_memory_is_not_started_by_a_plan() -> None:
    """As a daemon that is not there yet would find it."""
    stage = Stage()
    stage.meet(HostRead(60 * GIB, 64 * GIB))

    (row,) = plan(stage, spec_of(c={"resources": {"memory": "1TiB"}}))["workers"]

    assert (row["action"], row["placed"]) == ("wait", False)
