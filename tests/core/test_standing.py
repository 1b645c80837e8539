"""How the fleet stands, for a service manager: whether its start is over, and one line in words."""

from __future__ import annotations

from errno import EAGAIN, ENOENT

from supervisor.core.inventory import GpuState, Reading
from supervisor.core.message import ReloadRequested, ShutdownRequested, SpecRejected
from supervisor.core.standing import WORDS_MAX, in_words, is_under_way, is_up
from tests.core.builders import bad, devices, good, spec_of
from tests.core.stage import Stage, running

FOUR = spec_of(llm={"workers": 4, "command": "serve"})
GPU = spec_of(llm={"workers": 2, "resources": {"gpu": 1}})


def test_without_a_file_nothing_is_up() -> None:
    """The first one is still to be read."""
    assert not is_up(Stage().fleet)


def test_a_daemon_of_no_workers_is_up() -> None:
    """There is nobody to wait for."""
    stage = Stage().load(spec_of(llm={"workers": 0}))

    assert (is_up(stage.fleet), in_words(stage.fleet)) == (True, "no workers")


def test_it_is_up_once_every_worker_has_been_spawned() -> None:
    """Ready or not."""
    stage = Stage().load(FOUR)
    assert (is_up(stage.fleet), is_under_way(stage.fleet)) == (False, True)

    stage.spawned("llm/0", "llm/1", "llm/2")
    assert not is_up(stage.fleet)
    stage.spawned("llm/3")

    assert (is_up(stage.fleet), is_under_way(stage.fleet)) == (True, False)
    assert in_words(stage.fleet) == "0 of 4 ready, 4 starting"


def test_a_worker_that_cannot_be_spawned_does_not_hold_up_the_start() -> None:
    """It has said why."""
    stage = Stage().load(FOUR).spawned("llm/0", "llm/1")

    stage.spawn_failed("llm/2", ENOENT).spawn_failed("llm/3", EAGAIN, "cannot fork")

    assert is_up(stage.fleet)


def test_workers_with_gpus_wait_for_the_first_answer_of_the_driver() -> None:
    """It has deadlines of its own, so more time may be asked for."""
    stage = Stage().load(GPU)
    assert (is_up(stage.fleet), is_under_way(stage.fleet)) == (False, True)

    stage.read(bad(GpuState.UNRESPONSIVE, "nvmlInit did not answer"))

    assert (is_up(stage.fleet), is_under_way(stage.fleet)) == (True, False)


def test_a_worker_without_a_place_does_not_hold_up_the_start() -> None:
    """One GPU for two."""
    stage = Stage().load(GPU).read(good(*devices(1))).spawned("llm/0")

    assert is_up(stage.fleet)
    assert in_words(stage.fleet).startswith("0 of 2 ready, 1 starting; llm/1 pending: ")


def test_words_say_that_all_are_ready() -> None:
    """The line that an operator wants to see."""
    assert in_words(running(FOUR).fleet) == "4 of 4 workers ready"


def test_words_name_the_worst_and_why() -> None:
    """A failure before a pause, and its reason."""
    stage = running(FOUR).at(10.0).exited("llm/2", 1).at(11.0).exited("llm/3", 78)

    assert in_words(stage.fleet) == (
        "2 of 4 ready, 1 backoff; "
        "llm/3 failed: exited with 78, which means that trying again is of no use (permanent_exit)"
    )


def test_words_count_what_is_not_named() -> None:
    """Two have failed, one is named."""
    stage = running(FOUR).at(10.0).exited("llm/1", 78).exited("llm/3", 78)

    assert in_words(stage.fleet).startswith("2 of 4 ready, 2 failed; llm/1 failed: ")


def test_words_name_a_driver_in_trouble_only_to_who_needs_it() -> None:
    """Workers go on with the last good reading; a machine without GPUs has no trouble."""
    stage = running(GPU, *devices(2)).at(10.0)
    stage.meet(ReloadRequested())
    stage.load(GPU).read(bad(GpuState.UNRESPONSIVE, "a call hangs"))
    assert in_words(stage.fleet) == "2 of 2 workers ready; GPUs unresponsive (a call hangs)"

    stage = Stage().load(FOUR).read(bad(GpuState.UNRESPONSIVE, "a call hangs")).ready("llm/0", "llm/1")
    assert "GPUs" not in in_words(stage.fleet)


def test_words_remember_that_the_last_file_was_refused() -> None:
    """What runs is not what the file says."""
    stage = running(FOUR)
    stage.meet(ReloadRequested())
    assert in_words(stage.fleet) == "reloading, 4 of 4 workers ready"

    stage.meet(SpecRejected(("a.yaml:4:5: unknown key", "a.yaml:5:5: another")))

    assert in_words(stage.fleet) == ("4 of 4 workers ready; the last reload failed: a.yaml:4:5: unknown key and 1 more")


def test_words_count_down_while_stopping() -> None:
    """Whoever waits for the stop sees that something happens."""
    stage = running(FOUR)
    stage.meet(ShutdownRequested())
    stage.exited("llm/0", 0)

    assert in_words(stage.fleet) == "stopping, 3 of its workers left"


def test_words_are_one_line_of_bounded_length() -> None:
    """Other people's texts are in it."""
    stage = running(FOUR)
    stage.meet(ReloadRequested())
    stage.meet(SpecRejected(("a\nb" * 1000,)))

    assert "\n" not in in_words(stage.fleet)
    assert len(in_words(stage.fleet)) <= WORDS_MAX


def test_a_machine_without_gpus_is_no_trouble() -> None:
    """Absent is a fact."""
    stage = Stage().load(GPU).read(Reading(GpuState.ABSENT, "no library"))

    assert "GPUs absent" not in in_words(stage.fleet)
