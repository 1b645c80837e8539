"""Pages: the facts that are in them, in a pipe and on a terminal."""

from __future__ import annotations

import io
from datetime import UTC, datetime

import pytest

from supervisor.front.cells import age_of, size_of
from supervisor.front.page import Page, Table, clean, draw
from supervisor.front.show import devices_page, difference_page, explain_page, last_words_page, plan_page, status_page
from tests.front.fakes import a_device, a_row, a_status, a_worker, an_exit

NOW = datetime(2026, 11, 20, 10, 5, 0, tzinfo=UTC)
LATER = "2026-11-20T10:09:10Z"


def plain(page: Page) -> list[str]:
    out = io.StringIO()
    draw(page, out, width=None, colour=False)
    return out.getvalue().splitlines()


def line_of(page: Page, start: str) -> list[str]:
    """The words of the one line that begins with a word."""
    (line,) = [line for line in plain(page) if line.split() and line.split()[0] == start]
    return line.split()


# ---- status ---------------------------------------------------------------------------------------------------------


def test_a_count_that_an_operator_asked_for_is_marked() -> None:
    """It is not what the file says, and a reload takes it back."""
    status = a_status(a_worker("llm/0", "ready"))
    assert line_of(status_page(status, NOW), "llm") == ["llm", "1/1", "-"]

    status["services"][0]["scaled"] = True

    assert line_of(status_page(status, NOW), "llm") == ["llm", "1/1", "(scaled)", "-"]


def test_the_sockets_of_a_service_are_shown_with_what_is_wrong_with_them() -> None:
    """Only where there are some."""
    status = a_status(a_worker("web/0", "pending"))
    assert "ADDRESS" not in "\n".join(plain(status_page(status, NOW)))

    socket = {"name": "http", "address": "tcp://127.0.0.1:80", "state": "refused", "reason": "permission denied"}
    status["services"][0]["listen"] = [socket]

    page = status_page(status, NOW)
    assert "web      http    tcp://127.0.0.1:80  refused  permission denied" in plain(page)


def test_a_plan_and_an_explanation_say_where_a_worker_listens() -> None:
    """Once for each service, and with the name under which the worker finds it."""
    rows = [a_row("web/0", listen=["tcp://127.0.0.1:80", "unix:/run/a"]), a_row("web/1", listen=["tcp://127.0.0.1:80"])]
    shown = [{"name": "http", "address": "tcp://127.0.0.1:80"}]
    explained = a_worker("web/0", "ready", asks="no GPU", waits=None, verdicts=[], listen=shown)

    assert "web listens on tcp://127.0.0.1:80" in plain(plan_page({"devices": [], "workers": rows}, NOW))
    assert "shares tcp://127.0.0.1:80 (http)" in plain(explain_page(explained, NOW))


def test_a_workers_line_has_state_pid_gpus_restarts_age_and_reason() -> None:
    """One line for one worker, with the columns in their order."""
    gpus = [{"uuid": "GPU-a", "index": 0, "share": 1.0}, {"uuid": "GPU-b", "index": 3, "share": 1.0}]
    worker = a_worker("llm/0", "unready", pid=99, restarts=2, gpus=gpus, reason="port 8000 refuses connections")

    page = status_page(a_status(worker), NOW)

    assert line_of(page, "WORKER") == ["WORKER", "STATE", "PID", "GPUS", "RESTARTS", "AGE", "REASON"]
    assert line_of(page, "llm/0") == [
        "llm/0",
        "unready",
        "99",
        "0,3",
        "2",
        "5m",
        "port",
        "8000",
        "refuses",
        "connections",
    ]


def test_empty_cells_are_dashes_so_that_columns_can_be_counted() -> None:
    """awk finds the restarts of a worker without pid and GPU in the same column."""
    page = status_page(a_status(a_worker("llm/0", "pending", pid=None, since=None)), NOW)

    assert line_of(page, "llm/0") == ["llm/0", "pending", "-", "-", "0", "-", "-"]


@pytest.mark.parametrize(
    ("worker", "cell"),
    [
        (a_worker("llm/0", gpus=[{"uuid": "GPU-a", "index": 1, "share": 0.25}]), "1:0.25"),
        (a_worker("llm/0", gpus=[{"uuid": "GPU-a", "index": None, "share": 1.0}]), "GPU-a"),
        (a_worker("llm/0", fallback="cpu"), "fallback:cpu"),
    ],
)
def test_gpus_say_shares_lost_devices_and_fallback(worker: dict[str, object], cell: str) -> None:
    """A share below the whole, a device without an index, and a worker that runs without its GPU."""
    assert cell == line_of(status_page(a_status(worker), NOW), "llm/0")[3]


@pytest.mark.parametrize(
    ("worker", "reason"),
    [
        (a_worker("a/0", "ready", last_exit=an_exit(code=None, signal="SIGKILL")), "before: ended by SIGKILL"),
        (a_worker("a/0", "exited", last_exit=an_exit(code=0)), "exited with 0"),
        (
            a_worker("a/0", "failed", reason="5 failures (start_limit)", last_exit=an_exit(code=3)),
            "5 failures (start_limit); exited with 3",
        ),
        (
            a_worker(
                "a/0", "backoff", reason="exited with 3", last_exit=an_exit(code=3), next_start="2026-11-20T10:05:30Z"
            ),
            "exited with 3; next start in 30s",
        ),
        (a_worker("a/0", "backoff", reason="exited with 3", next_start="2026-11-20T10:04:59Z"), "next start is due"),
        (
            a_worker("a/0", "failed", last_exit=an_exit(code=None, cause="spawn", detail="no such file")),
            "spawn: no such file",
        ),
    ],
)
def test_the_reason_says_what_became_of_the_process_before(worker: dict[str, object], reason: str) -> None:
    """The last exit explains what the state alone does not, and a back-off says until when."""
    assert " ".join(line_of(status_page(a_status(worker), NOW), "a/0")[6:]).endswith(reason)


def test_the_head_says_file_state_age_pid_and_instance() -> None:
    """The first line is about the daemon."""
    head = plain(status_page(a_status(pid=7, instance="blue"), NOW))[0]

    assert head == "demo.yaml: running, instance blue, up 5m, pid 7, version 0.1.0"


def test_a_failed_reload_is_said_with_every_problem() -> None:
    """What is wrong with the file stands above the tables until a good reload."""
    reload = {"at": "2026-11-20T10:04:00Z", "ok": False, "problems": ["demo.yaml:4:5: no\n  hint: yes", "second"]}

    lines = plain(status_page(a_status(reload=reload), NOW))

    assert lines[1] == "the last reload (60s ago) failed, what ran before goes on:"
    assert lines[2:5] == ["  demo.yaml:4:5: no", "  hint: yes", "  second"]


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("absent", "there is no NVIDIA driver library here"),
        ("not_loaded", "the NVIDIA kernel module is not loaded"),
        ("no_permission", "no permission"),
        ("mismatch", "different versions"),
        ("unresponsive", "does not answer"),
        ("error", "reports an error"),
        (None, "have not been read yet"),
        ("melted", "state melted"),
    ],
)
def test_a_driver_that_is_not_ok_is_said_in_words(state: str | None, words: str) -> None:
    """With the detail behind it, in status and in the inventory."""
    gpu = {"state": state, "detail": "as NVML puts it", "since": None}

    for page in (status_page(a_status(gpu=gpu), NOW), devices_page({"gpu": gpu, "devices": []}, NOW)):
        (line,) = [line for line in plain(page) if words in line]
        assert "(as NVML puts it)" in line


def test_a_driver_that_is_ok_is_not_mentioned() -> None:
    """Nothing is said of what is as it should be."""
    assert len(plain(status_page(a_status(), NOW))) == 1


def test_services_are_counted() -> None:
    """A service has a line of its own, also one without workers."""
    page = status_page(a_status(a_worker("llm/0"), a_worker("llm/1", "failed")), NOW)

    assert line_of(page, "llm") == ["llm", "1/2", "1", "failed"]


def test_a_devices_line_has_memory_and_who_is_on_it() -> None:
    """Free, total and declared memory, our workers, processes of others, and what is wrong."""
    device = a_device(
        1,
        health="lost",
        reason="fell off the bus",
        memory={"total": 85899345920, "free": None, "declared": 1610612736},
        workers=["llm/0", "llm/1"],
        foreign=[{"pid": 99, "name": "python", "user": "ann", "bytes": 1}],
    )

    words = line_of(status_page(a_status(devices=(device,)), NOW), "1")

    assert words[:7] == ["1", "lost", "-", "80GiB", "1.5GiB", "llm/0,llm/1", "python(99,ann,1B)"]
    assert " ".join(words[7:]) == "NVIDIA H100 80GB HBM3 fell off the bus"


def test_why_a_device_is_not_well_has_a_column_of_its_own() -> None:
    """With how long that will last; where all are well there is no such column."""
    sick = a_device(1, health="quarantined", reason="XID 79 (it fell off the bus)", health_until=LATER)
    odd = a_device(2, health="suspect", reason="hot", health_until=LATER)
    due = a_device(3, health="quarantined", reason="by hand", health_until=None)
    gpu = {"state": "ok", "detail": ""}

    lines = plain(devices_page({"gpu": gpu, "devices": [a_device(0), sick, odd, due]}, NOW))

    assert lines[0].endswith("NAME                   REASON")
    assert lines[1].endswith("NVIDIA H100 80GB HBM3  -")
    assert lines[2].endswith("HBM3  XID 79 (it fell off the bus); looked at again in 4m")
    assert lines[3].endswith("HBM3  hot; trusted again in 4m")
    assert lines[4].endswith("HBM3  by hand")
    assert plain(devices_page({"gpu": gpu, "devices": [a_device(0)]}, NOW))[0].endswith("  NAME")


def test_a_stranger_of_whom_little_is_known_is_shown_by_its_pid() -> None:
    """In a container the driver may tell a pid that is nobody here."""
    device = a_device(0, foreign=[{"pid": 99, "name": "", "user": "", "bytes": None}])

    assert "?(99)" in line_of(status_page(a_status(devices=(device,)), NOW), "0")


def test_mig_instances_are_counted_below_their_gpu() -> None:
    """As nvidia-smi does; a GPU that was cut into nothing says so, and one with the host's memory too."""
    one, other = a_device(0, uuid="GPU-a", mig=True), a_device(1, uuid="GPU-b", mig=True)
    parts = [a_device(0, uuid=f"MIG-{number}", parent="GPU-a", name="MIG 1g.10gb") for number in range(2)]
    memory = {"total": 1024, "free": 1, "declared": 0, "unified": True}
    shared = a_device(2, uuid="GPU-c", name="NVIDIA GB10", memory=memory)

    page = devices_page({"gpu": {"state": "ok", "detail": ""}, "devices": [one, *parts, other, shared]}, NOW)

    lines = plain(page)
    assert [line.split()[0] for line in lines[1:]] == ["0", "0/0", "0/1", "1", "2"]
    assert lines[1].endswith("NVIDIA H100 80GB HBM3: MIG is on, 2 instances")
    assert lines[4].endswith("MIG is on, without an instance to place on")
    assert lines[5].endswith("NVIDIA GB10: its memory is the host's")


def test_a_device_outside_the_pool_says_so() -> None:
    """It is in the machine, and is not handed out."""
    page = devices_page({"gpu": {"state": "ok", "detail": ""}, "devices": [a_device(0, in_pool=False)]}, NOW)

    assert plain(page)[-1].endswith("NVIDIA H100 80GB HBM3: outside the pool")


def test_a_worker_on_an_instance_shows_which() -> None:
    """Below its GPU, where the devices are known."""
    parts = [a_device(0, uuid=f"MIG-{number}", parent="GPU-00000000") for number in range(2)]
    worker = a_worker("llm/0", gpus=[{"uuid": "MIG-1", "index": 0, "share": 1.0}])

    page = status_page(a_status(worker, devices=(a_device(0, mig=True), *parts)), NOW)

    assert line_of(page, "llm/0")[3] == "0/1"


def test_last_words_are_the_tail_of_the_last_exit() -> None:
    """With how it ended; nothing where there is nothing."""
    worker = a_worker("llm/0", last_exit=an_exit(code=3, tail=["one", "two"]))

    assert plain(last_words_page(worker)) == ["last lines of llm/0 before it ended (exited with 3):", "  one", "  two"]
    assert last_words_page(a_worker("llm/0")) == ()
    assert last_words_page(a_worker("llm/0", last_exit=an_exit())) == ()


# ---- devices, plans, differences ------------------------------------------------------------------------------------


def test_the_inventory_has_uuid_and_address() -> None:
    """What one needs to name a device in a file."""
    page = devices_page({"gpu": {"state": "ok", "detail": ""}, "devices": [a_device(0)]}, NOW)

    assert {"GPU-00000000", "0000:10:00.0"} <= set(line_of(page, "0"))


def test_an_empty_inventory_says_so() -> None:
    """A driver without devices is not an empty page."""
    assert plain(devices_page({"gpu": {"state": "ok"}, "devices": []}, NOW)) == [
        "no GPUs: the NVIDIA driver shows none"
    ]


def test_a_plan_says_for_each_worker_what_is_done_and_why() -> None:
    """Placed or not, where, and the arithmetic."""
    plan = {
        "devices": [a_device(0, workers=["llm/0"])],
        "workers": [
            a_row("llm/0", action="replace", gpus=[{"uuid": "GPU-a", "index": 0, "share": 0.5}]),
            a_row("llm/1", placed=False, action="wait", reason="needs 1 GPU, 0 of 1 are free"),
            a_row("llm/2", fallback="cpu"),
            a_row("llm/3", fallback="cpu", action="stop"),
            a_row("llm/4", gpus=[{"uuid": "GPU-a", "index": 0, "share": 1.0}], action="stop"),
        ],
    }

    page = plan_page(plan, NOW)

    assert line_of(page, "llm/0") == ["llm/0", "replace", "yes", "0:0.5", "-"]
    assert line_of(page, "llm/1") == [
        "llm/1",
        "wait",
        "no",
        "-",
        "needs",
        "1",
        "GPU,",
        "0",
        "of",
        "1",
        "are",
        "free",
    ]
    assert line_of(page, "llm/2") == ["llm/2", "start", "yes", "fallback:cpu", "-"]
    assert line_of(page, "llm/3")[3:] == line_of(page, "llm/4")[3:] == ["-", "-"]
    assert "llm/0" in line_of(page, "0")


def test_a_plan_without_workers_says_so() -> None:
    """A file with `workers: 0` is no error."""
    assert plain(plan_page({"gpu": None, "devices": [], "workers": []}, NOW)) == ["no workers"]


def test_a_difference_has_one_line_for_each_worker_it_touches() -> None:
    """Workers that are kept are not mentioned; without any other there is nothing to do."""
    assert plain(difference_page({"llm/0": "replace", "llm/1": "keep", "web/1": "stop"})) == [
        "llm/0 replace",
        "web/1 stop",
    ]
    assert plain(difference_page({"llm/1": "keep"})) == ["nothing to do"]
    assert plain(difference_page({"llm/1": "keep"}, ["health.canary"])) == ["health.canary changed"]
    assert plain(difference_page({})) == ["nothing to do"]


# ---- cells ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("since", "age"),
    [
        ("2026-11-20T10:05:00Z", "0s"),
        ("2026-11-20T10:03:01Z", "119s"),
        ("2026-11-20T10:03:00Z", "2m"),
        ("2026-11-20T07:00:00Z", "3h"),
        ("2026-11-10T10:05:00Z", "10d"),
        ("2026-11-20T11:00:00Z", "0s"),
        (None, ""),
    ],
)
def test_an_age_is_in_one_unit(since: str | None, age: str) -> None:
    """Also of what seems to come: clocks differ a little."""
    assert age == age_of(since, NOW)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0B"), (1023, "1023B"), (1536, "1.5KiB"), (85520809984, "79.65GiB"), (2**50, "1024TiB"), (None, "")],
)
def test_a_size_is_in_binary_units(count: int | None, text: str) -> None:
    """Without a blank, so that it is one word."""
    assert text == size_of(count)


@pytest.mark.parametrize(
    ("text", "shown"),
    [("ünïcode ok", "ünïcode ok"), ("\x1b[2J", "\\x1b[2J"), ("a\tb", "a\\tb"), ("\udcff", "\\udcff")],
)
def test_what_cannot_be_printed_is_shown_as_its_escape(text: str, shown: str) -> None:
    """A worker's last words do nothing to the terminal of who reads them."""
    assert shown == clean(text)


# ---- drawing --------------------------------------------------------------------------------------------------------

LONG = "because " * 40


def test_in_a_pipe_nothing_is_cut_or_boxed() -> None:
    """However long, a row is one line of plain text, without blanks at its end."""
    page = status_page(a_status(a_worker("llm/0", reason=LONG)), NOW)

    (line,) = [line for line in plain(page) if line.startswith("llm/0")]

    assert line.endswith(LONG.rstrip())
    assert all(line.isascii() and line == line.rstrip() for line in plain(page))


def test_on_a_terminal_lines_fit_and_nothing_is_lost() -> None:
    """Long texts are wrapped within the width."""
    out = io.StringIO()

    draw(status_page(a_status(a_worker("llm/0", reason=LONG)), NOW), out, width=80, colour=False)

    assert out.getvalue().count("because") == 40
    assert all(len(line) <= 80 for line in out.getvalue().splitlines()[1:])


@pytest.mark.parametrize("colour", [True, False])
def test_colour_only_where_it_may_be(colour: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With it there are escapes, without it there are none, whatever the environment thinks."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    out = io.StringIO()

    draw(status_page(a_status(a_worker("llm/0", "failed")), NOW), out, width=80, colour=colour)

    assert colour is ("\x1b[" in out.getvalue())


def test_cells_are_text_and_not_markup() -> None:
    """Brackets in a reason mean nothing."""
    out = io.StringIO()

    draw((Table(("A",), (("[bold]x[/bold] \x1b[2J",),)),), out, width=80, colour=False)

    assert "[bold]x[/bold] \\x1b[2J" in out.getvalue()


def test_limits_that_do_not_hold_are_told_below_the_workers() -> None:
    """Each reason once, with those it is true of."""
    why = "cpu is not enforced: no cgroup v2 here"
    limits = {"cpu": 0.5, "memory": None, "enforced": False, "reason": why}
    workers = [a_worker(f"llm/{index}", limits=limits) for index in range(6)]
    held = a_worker("llm/6", limits={**limits, "enforced": True, "reason": ""})

    page = status_page(a_status(*workers, held, a_worker("llm/7", limits=None)), NOW)

    assert [part for part in page if isinstance(part, str) and "enforced" in part] == [
        f"{why} (llm/0, llm/1, llm/2, llm/3, ...)"
    ]


def test_what_nothing_enforces_on_a_gpu_is_told_by_status_plan_and_explain() -> None:
    """Once, with those it is true of."""
    why = "not enforced on the GPU: its share"
    worker = {**a_worker("llm/0"), "gpu_limits": {"enforced": False, "exceeded": False, "reason": why}}
    row = {**worker, "action": "keep", "placed": True, "wanted": True}

    pages = (
        status_page(a_status(worker), NOW),
        plan_page({"devices": [], "workers": [row]}, NOW),
        explain_page({**worker, **told("a half", None, [])}, NOW),
    )

    assert [[part for part in page if isinstance(part, str) and why in part] for page in pages] == [
        [f"{why} (llm/0)"],
        [f"{why} (llm/0)"],
        [why],
    ]


# ---- explain --------------------------------------------------------------------------------------------------------


def test_an_explanation_has_the_wait_its_age_and_every_device() -> None:
    """What it needs, since when, when somebody looks again, and what is with each device."""
    verdicts = [{"device": "GPU 0", "name": "NVIDIA L4", "verdict": "is given away (b/0)", "uuid": "GPU-a", "index": 0}]
    waits = {"for": "needs 1 GPU", "since": "2026-11-20T10:04:00Z", "next_look": "2026-11-20T10:05:02Z"}

    lines = plain(explain_page({**a_worker("a/0", "pending"), **told("1 GPU", waits, verdicts)}, NOW))

    assert lines[1:4] == [
        "asks for 1 GPU",
        "has waited 60s: needs 1 GPU",
        "looks again in 2s, sooner when something changes",
    ]
    assert lines[-1].split(maxsplit=3)[-1].endswith("is given away (b/0)")


def test_an_explanation_of_one_that_runs_has_its_devices_and_its_last_words() -> None:
    """Where it is, and how the process before it ended."""
    gpus = [{"uuid": "GPU-a", "index": 3, "share": 0.25}]
    worker = a_worker("a/0", gpus=gpus, last_exit=an_exit(tail=["out of memory"]))

    lines = plain(explain_page({**worker, **told("0.25 of a GPU", None, [])}, NOW))

    assert lines == [
        "a/0: ready for 5m, pid 4711",
        "asks for 0.25 of a GPU",
        "has GPU 3:0.25 (GPU-a)",
        "before: exited with 1",
        "last lines of a/0 before it ended (exited with 1):",
        "  out of memory",
    ]


@pytest.mark.parametrize(
    ("read_at", "cell"),
    [("2026-11-20T09:59:30Z", "3: 1GiB"), ("2026-11-20T08:00:00Z", "3: 1GiB (2h before)")],
)
def test_memory_that_was_read_long_before_a_death_is_marked(read_at: str, cell: str) -> None:
    """The driver is not asked all the time."""
    memory = {"total": 2**31, "free": 2**30, "read_at": read_at}
    death = {"at": "2026-11-20T10:00:00Z", "incarnation": 7, "uptime_s": 1.0, **an_exit()}
    death["devices"] = [{"uuid": "GPU-a", "share": 1.0, "index": 3, "memory": memory}]

    page = explain_page({**a_worker("a/0"), "deaths": [death], **told("1 GPU", None, [])}, NOW)

    assert any(cell in table.rows[0] for table in page if isinstance(table, Table))


def test_an_explanation_of_one_that_waits_tells_what_is_kept_for_it_and_that_it_looks_now() -> None:
    """It does not have the GPU yet."""
    gpus = [{"uuid": "GPU-a", "index": 0, "share": 1}]
    waits = {"for": "needs memory", "since": "2026-11-20T10:04:00Z", "next_look": "2026-11-20T10:04:00Z"}

    lines = plain(explain_page({**a_worker("a/0", "pending", gpus=gpus), **told("1 GPU", waits, [])}, NOW))

    assert "GPU 0 is reserved for it (GPU-a)" in lines
    assert "looks again now" in lines


def told(asks: str, waits: object, verdicts: object) -> dict[str, object]:
    return {"asks": asks, "waits": waits, "verdicts": verdicts}


def test_a_start_says_what_is_left_of_its_time_and_how_long_the_last_one_took() -> None:
    """Beside what the worker says of itself."""
    loading = a_worker("a/0", "starting", reason="loading shard 3 of 8", ready_by="2026-11-20T10:06:30Z")

    first = plain(explain_page({**loading, **told("no GPU", None, [])}, NOW))
    again = plain(explain_page({**loading, "time_to_ready": 95.2, **told("no GPU", None, [])}, NOW))

    assert "loading shard 3 of 8; 90s left to get ready" in first
    assert "loading shard 3 of 8; 90s left to get ready, took 95s last time" in again


def test_an_explanation_has_the_next_timer_and_how_many_failures_are_left() -> None:
    """One that waits for its next start says so once."""
    timer = {"at": "2026-11-20T10:05:20Z", "what": "SIGKILL"}
    failures = {"count": 3, "limit": 10, "without_ready": 0, "start_limit": 5}
    more = {"timer": timer, "failures": failures, **told("no GPU", None, [])}

    stopping = plain(explain_page({**a_worker("a/0", "stopping", reason="stopped by the operator"), **more}, NOW))
    waits = {"for": "exited with 1", "since": "2026-11-20T10:04:00Z", "next_look": "2026-11-20T10:05:20Z"}
    backoff = a_worker("a/0", "backoff", reason="exited with 1", next_start="2026-11-20T10:05:20Z")
    later = plain(explain_page({**backoff, **more, "waits": waits}, NOW))

    assert stopping[2:] == [
        "stopped by the operator",
        "failures in a row: 3 of 10 without a healthy run; at a limit it has failed",
        "in 20s: SIGKILL",
    ]
    assert later[2:] == ["exited with 1; next start in 20s", stopping[3]]
