"""Which case is shown by which tests; docs/conformance.md is made of it."""

from __future__ import annotations

from dataclasses import dataclass

GROUPS = {
    "A": "Start and exit",
    "B": "Stop and trees",
    "C": "Readiness and liveness",
    "D": "Limits of restarts",
    "E": "Reload and scale",
    "F": "The supervisor's own life",
    "H": "What the machine refuses",
    "GPU": "A device that is held",
}


@dataclass(frozen=True, slots=True)
class Case:
    """
    A row.

    Args:
        id: Group and number.
        what: Happens, and what is expected.
        tests: ``file::name`` below tests/; those of ``conformance`` are run against both.
        but: What of the case is not covered, and why; all of it where there are no tests.
    """

    id: str
    what: str
    tests: tuple[str, ...] = ()
    but: str = ""

    @property
    def group(self) -> str:
        return self.id.rstrip("0123456789")


def _here(file: str, *names: str) -> tuple[str, ...]:
    return tuple(f"conformance/test_{file}.py::test_{name}" for name in names)


def _e2e(file: str, *names: str) -> tuple[str, ...]:
    return tuple(f"e2e/test_{file}.py::test_{name}" for name in names)


def _host(file: str, *names: str) -> tuple[str, ...]:
    return tuple(f"host/test_{file}.py::test_{name}" for name in names)


def _core(file: str, *names: str) -> tuple[str, ...]:
    return tuple(f"core/test_{file}.py::test_{name}" for name in names)


_CANNOT_EXECUTE = _here("starts", "what_cannot_be_executed_is_named_and_fails_at_once")

STARTS = (
    Case(
        "A02",
        "Exits at once, again and again: as many starts as the budget, with growing delays",
        _here("starts", "failed_starts_are_counted_and_their_delays_grow"),
    ),
    Case(
        "A04",
        "A healthy worker dies once: it comes back at once",
        _here("starts", "a_healthy_worker_that_dies_comes_back_at_once"),
    ),
    Case("A05", "The program is missing: named, given up at once", _CANNOT_EXECUTE),
    Case(
        "A06",
        "An empty file, a folder, a file that is not executable: named, given up at once",
        (*_CANNOT_EXECUTE, *_host("spawn_errors", "failed_start_names_its_cause")),
    ),
    Case(
        "A07",
        "A script without its interpreter: the interpreter is named",
        _here("starts", "a_missing_interpreter_is_named"),
    ),
    Case(
        "A09",
        "An unknown user: named, given up, the neighbours run",
        _here("starts", "an_unknown_user_harms_nobody_else")
        + _host("setup", "a_directory_that_user_may_not_enter_is_named"),
    ),
    Case(
        "A10",
        "Death by SEGV, ABRT, KILL, TERM, BUS: recorded by name",
        _here("starts", "a_death_by_a_signal_is_recorded_by_its_name")
        + _host("processes", "signal_is_told_with_its_core"),
    ),
    Case(
        "A11",
        "Exit codes 0, 1, 77, 125, 255 with two that are permanent: the policy holds",
        _here("starts", "exit_codes_do_what_the_policy_says"),
    ),
    Case(
        "A13",
        "Exits before anybody looks: no end is lost, none counted twice",
        _here("starts", "no_end_is_lost_however_soon_it_comes") + _host("processes", "instant_crashes_in_a_row"),
    ),
    Case(
        "A14",
        "Says READY and exits within a millisecond: ready, then exited",
        _here("starts", "ready_counts_also_when_the_end_follows_at_once"),
    ),
    Case(
        "A17",
        "Stops itself (SIGSTOP) while it starts: the start timeout ends it",
        _here("starts", "a_worker_that_is_stopped_while_it_starts_runs_into_its_timeout"),
    ),
)

STOPS = (
    Case("B01", "Ignores SIGTERM: killed after its grace", _here("stops", "a_worker_that_ignores_sigterm_is_killed")),
    Case(
        "B04",
        "A grandchild with a session of its own ignores SIGTERM: dead before the worker counts as stopped, or as free",
        _here(
            "stops",
            "what_a_stopped_worker_leaves_is_killed",
            "what_a_crashed_worker_leaves_is_killed_before_the_next",
        )
        + _e2e("trees", "an_orphan_is_dead_before_the_replacement_starts"),
    ),
    Case(
        "B06",
        "A grandchild holds the output open: the end is seen all the same",
        _here("stops", "an_end_is_seen_although_somebody_holds_the_output")
        + _host("logs", "close_does_not_wait_for_an_orphan"),
    ),
    Case(
        "B10",
        "Stop while the rest of a dead worker is being ended: no start after it",
        _here("stops", "a_stop_while_the_rest_is_being_ended_holds"),
    ),
    Case(
        "B11",
        "Stop, then start before it has ended: the old one ends, one new one starts",
        _here("stops", "a_start_during_a_stop_comes_after_it"),
    ),
    Case(
        "B14",
        "Stop of a worker that is stopped (SIGSTOP): it is continued and may end itself",
        _here("stops", "a_stopped_process_is_continued_to_end_itself"),
    ),
    Case(
        "B15",
        "Exits by itself while it is asked to: stopped, one record",
        _here("stops", "an_exit_that_meets_the_stop_is_no_crash"),
    ),
    Case(
        "B16",
        "The stop command hangs: bounded, the stop goes on",
        _here("stops", "a_hook_that_hangs_is_bounded"),
    ),
    Case(
        "B17",
        "Other signals in other steps: INT, TERM, KILL",
        _here("stops", "the_signal_of_a_stop_may_be_chosen"),
        but="one signal of your choice and SIGKILL; what needs more steps has `stop.exec`",
    ),
    Case(
        "B18",
        "Cannot be killed (uninterruptible): said so, others unaffected, the supervisor ends in bounded time",
        _core("worker", "a_tree_that_survives_sigkill_is_reported_every_ten_seconds")
        + _core("shutdown", "a_daemon_does_not_end_later_than_its_longest_grace_and_six_seconds")
        + _host("hung_exec", "hung_start_is_given_up_when_asked_and_delays_nobody")
        + _e2e(
            "stop",
            "who_hangs_in_the_kernel_says_where_and_keeps_its_gpu",
            "a_daemon_that_cannot_end_a_worker_ends_with_1_and_says_where_it_hangs",
        ),
    ),
    Case(
        "B19",
        "Signal the main process only, or its group",
        _here("stops", "only_the_main_process_is_signalled", "the_whole_group_is_signalled"),
    ),
    Case(
        "B20",
        "The end goes backwards through dependencies",
        _here("stops", "stops_go_backwards_through_dependencies")
        + _e2e("order", "a_worker_waits_for_those_before_it_and_is_stopped_before_them"),
    ),
)

PROBES = (
    Case(
        "C04",
        "A long start with a liveness probe: not asked before the first ready",
        _here("probes", "liveness_is_not_asked_before_the_first_ready"),
    ),
    Case(
        "C08",
        "The watchdog is not fed: SIGABRT, for the stacks, then SIGKILL; cause `watchdog`",
        _here("probes", "a_watchdog_that_is_not_fed_ends_its_worker")
        + _e2e("probes", "a_worker_speaks_for_itself")
        + _core("liveness", "one_that_missed_its_watchdog_is_asked_to_show_where_it_hangs"),
    ),
    Case(
        "C09",
        "The supervisor itself was stalled: nobody is ended for it",
        _e2e("stalled", "limits_that_end_while_the_daemon_is_stopped_end_nobody")
        + _host("notices", "a_stall_of_ours_is_not_silence"),
    ),
    Case(
        "C10",
        "An HTTP server accepts and says nothing: counted, and delays no other probe",
        _here("probes", "a_probe_that_hangs_delays_no_other")
        + _host("http_probe", "a_server_that_hangs_is_not_waited_for"),
    ),
    Case(
        "C11",
        "A probe leaves a process behind: the answer counts, the process is killed",
        _here("probes", "what_a_probe_leaves_is_killed"),
    ),
    Case(
        "C13",
        "Fail, fail, well, fail, fail: nothing happens at a threshold of three",
        _here("probes", "failures_count_only_in_a_row"),
    ),
    Case(
        "C14",
        "Readiness is lost, liveness is well: shown, never restarted",
        _host("probes", "worker_that_flaps_is_unready_after_three_failures_and_ready_again")
        + _core("worker_ends", "losing_readiness_is_no_reason_to_restart"),
        but="in two halves: a ready worker is asked every ten seconds, and has to fail three times",
    ),
    Case(
        "C17",
        "Closes its notify socket and its output and serves on: stays ready",
        _here("probes", "who_closes_everything_and_serves_stays_up")
        + _host("logs", "end_of_file_does_not_turn_the_loop"),
    ),
    Case(
        "C18",
        "Many probes of one period: spread over it",
        _host("probes", "workers_are_asked_at_different_times"),
    ),
)

LIMITS = (
    Case(
        "D01",
        "Up each time and then dead: as many as the limit, and no more",
        _here("limits", "who_dies_again_and_again_is_given_up"),
    ),
    Case(
        "D03",
        "Given up: one try after parole; well clears, failure gives up again",
        _here("limits", "who_failed_gets_one_try_after_parole")
        + _e2e("operator", "a_failed_worker_is_tried_again_after_its_parole"),
    ),
    Case(
        "D04",
        "Given up, started by the operator: a whole budget again",
        _here("limits", "an_operators_start_clears_the_counts"),
    ),
    Case(
        "D09",
        "An exit code that is permanent: given up at once, its last words kept",
        _here("limits", "a_permanent_exit_code_is_the_end"),
    ),
    Case(
        "D10",
        "Many fail at once for one cause: they come back at different times",
        _here("limits", "who_fails_together_comes_back_at_different_times"),
    ),
    Case(
        "D11",
        "One is given up: the others are untouched, `status` says that not all is well",
        _here("limits", "one_that_failed_harms_nobody_and_is_told"),
    ),
    Case(
        "D12",
        "All are given up: the supervisor ends, if asked to, and not with 0",
        _e2e("hostile_hosts", "exit_when_failed_ends_the_daemon_with_1"),
    ),
)

_BAD_FILE = _here("reload", "a_bad_file_changes_nothing")
_GROWING = _here("reload", "growing_and_shrinking_touches_nobody_else")
_CHANGED = _here("reload", "only_what_changed_is_restarted")
_HANGUPS = _here("reload", "hangups_in_a_row_restart_nobody")

RELOADS = (
    Case("E01", "Reload of a file that is no YAML: told, nothing changes", _BAD_FILE),
    Case(
        "E02",
        "Reload of a file with an unknown key: refused with its line",
        _e2e("rescale", "a_bad_file_changes_nothing_and_is_told_with_its_lines"),
    ),
    Case("E03", "Reload of a file that is gone: refused, workers go on", _BAD_FILE),
    Case(
        "E04",
        "Reload of a file that may not be read: refused, workers go on",
        _e2e("rescale", "a_missing_or_unreadable_file_changes_nothing"),
    ),
    Case("E05", "SIGHUP many times in a row: no worker twice, none restarted", _HANGUPS),
    Case("E06", "SIGHUP during the first start: no start lost", _HANGUPS),
    Case("E07", "SIGHUP during the end: ignored", _e2e("rescale", "sighup_while_stopping_is_too_late")),
    Case("E09", "Four workers become six: the four are the same processes", _GROWING),
    Case("E10", "Six workers become two: the highest go, the two are the same processes", _GROWING),
    Case("E11", "None, and four again", _here("reload", "to_nothing_and_back")),
    Case("E12", "One service's command changes: only that is restarted", _CHANGED),
    Case("E13", "A service gets another name: the new one starts, the old one ends", _CHANGED),
    Case(
        "E14",
        "The new command fails to start: one worker alone tries it, the rest keep the old one, and it goes back",
        _e2e("rollout", "a_canary_that_fails_leaves_the_others_and_goes_back"),
    ),
    Case(
        "E16",
        "Rolling with room for one more: the new one is ready before an old one is told to stop",
        _e2e("rollout", "with_surge_another_one_serves_before_anybody_goes"),
    ),
    Case(
        "E18",
        "More workers are asked for than there may be: told, nothing changes",
        _core("orders", "counts_that_the_file_does_not_allow_are_refused"),
        but="by `scale`; TTIN and TTOU mean nothing to it",
    ),
    Case(
        "E20",
        "The file is swapped behind a symbolic link: the new one is read",
        _here("reload", "a_file_that_is_swapped_behind_a_link_is_read_anew"),
    ),
)

MASTERS = (
    Case(
        "F01",
        "SIGTERM: everything ends in order, status 0",
        _here("master", "asked_to_end_several_times_it_ends_well")
        + _e2e("trees", "sigterm_ends_everything_in_bounded_time_and_a_second_one_at_once"),
    ),
    Case(
        "F03",
        "SIGTERM, SIGINT, SIGTERM: the same, no traceback",
        _here("master", "asked_to_end_several_times_it_ends_well"),
    ),
    Case(
        "F04",
        "SIGINT during the start: all that have been started are asked to end, status 0",
        _here("master", "an_interrupt_during_the_start_ends_those_that_have_been_started"),
    ),
    Case(
        "F06",
        "SIGKILL of the supervisor, and another one: no worker runs twice",
        _here("master", "after_its_death_nothing_runs_twice")
        + _e2e("leftovers", "what_a_killed_daemon_left_is_ended_before_anything_starts"),
        but="workers end with their daemon and are started anew; adopting them comes later",
    ),
    Case(
        "F08",
        "The same when a pid is somebody else's by now: left alone",
        _host("leftovers", "a_number_that_was_used_again_is_nobody_of_ours"),
    ),
    Case("F10", "It executes itself anew under load: the same workers", but="not yet: `upgrade` is refused by name"),
    Case(
        "F13",
        "A second one on the same socket: refused, with the pid of the first",
        _e2e("surfaces", "a_second_daemon_on_the_socket_is_told_who_has_it"),
    ),
    Case("F14", "A socket left by a dead one: taken over", _e2e("surfaces", "a_stale_socket_is_taken_over")),
    Case(
        "F15",
        "The socket is removed: a signal brings it back",
        _e2e("control_socket", "a_removed_socket_comes_back_at_a_signal"),
    ),
    Case(
        "F16",
        "Its stderr is closed, full, or not read: nothing stops",
        _e2e("hostile_hosts", "a_stderr_that_takes_nothing_stops_nothing", "a_stderr_that_nobody_reads_stops_nothing"),
    ),
    Case(
        "F17",
        "A storm of orphans: all reaped, nobody waits for it",
        _host("shim_trees", "wide_and_deep_tree_is_killed", "tree_that_forks_while_it_is_killed_does_not_win")
        + _e2e("hostile_hosts", "as_pid_1_it_hands_on_signals_and_reaps"),
        but="hundreds and not ten thousand, which take longer to make than to reap; each falls to the shim of its own "
        "worker, so that the daemon's loop has no part in it",
    ),
    Case(
        "F18",
        "As PID 1 of a container: reaps, hands on signals",
        _e2e("hostile_hosts", "as_pid_1_it_hands_on_signals_and_reaps", "as_pid_1_it_ends_as_the_daemon_ends"),
    ),
    Case(
        "F19",
        "Its state file is damaged: ignored, leftovers found all the same",
        _host("leftovers", "a_file_that_is_not_ours_is_ignored", "who_carries_the_mark_is_ended"),
    ),
    Case(
        "F20",
        "It may not run for a while (SIGSTOP): nobody is ended, deaths are seen",
        _here("master", "it_may_not_run_for_a_while"),
    ),
    Case(
        "F21",
        "`systemctl stop` while workers need their time: they get it, within the limit of the unit",
        (
            "systemd/test_box.py::test_workers_get_their_grace_whatever_limit_the_manager_has",
            "test_herald.py::test_stopping_asks_for_the_time_that_it_takes",
        ),
        but="`make test-systemd`, in a container with a systemd of its own, and not of every `make test`",
    ),
    Case(
        "F22",
        "READY=1 once the start is over, and a true STATUS",
        (
            "test_herald.py::test_ready_is_told_once_with_the_words",
            *_core("standing", "it_is_up_once_every_worker_has_been_spawned", "words_name_the_worst_and_why"),
            "systemd/test_box.py::test_start_waits_for_no_model",
        ),
        but="it waits for no worker to be ready, since a model may take minutes; who wants that asks "
        "`status --wait ready`",
    ),
)

FAULTS = (
    Case(
        "H01",
        "fork is refused (EAGAIN): waited for, nobody charged",
        _e2e("hostile_hosts", "fork_refused_by_the_system_is_waited_for"),
    ),
    Case(
        "H02",
        "No descriptors: the same, and `status` still answers",
        _e2e("hostile_hosts", "few_descriptors_hold_workers_back_and_not_the_daemon"),
    ),
    Case(
        "H03",
        "No memory for a process (ENOMEM): waited for, nobody charged",
        _here("faults", "no_memory_for_a_process_is_waited_for")
        + _e2e("no_memory", "no_memory_for_a_shim_is_waited_for"),
    ),
    Case(
        "H06",
        "A pid is used again between the decision and the kill: nobody else is hit",
        (
            *_host("leftovers", "a_number_that_was_used_again_is_nobody_of_ours"),
            "test_layers.py::test_what_can_do_harm_has_its_owners",
        ),
        but="the kernel gives no way to make it happen on purpose; pids are signalled through pidfds, or by the parent that has not reaped them, and a test holds that nothing else may",
    ),
    Case(
        "H07",
        "Ten thousand signals at once: no state is lost",
        _here("faults", "a_burst_of_signals_loses_nothing"),
    ),
    Case("H08", "`/proc` hides others: works", _e2e("hostile_hosts", "a_proc_that_hides_others_is_enough")),
    Case(
        "H09",
        "No cgroup is delegated: works without, and says so",
        _e2e("cgroups", "without_delegation_nothing_is_made"),
    ),
    Case(
        "H10",
        "A kernel without pidfd: refused clearly",
        _core("doctor", "what_the_machine_lacks_is_named"),
        but="`doctor` says so; nothing else is done, since Linux has had it since 5.3, of 2019",
    ),
    Case(
        "H11",
        "The exec of one worker hangs: nobody else waits",
        _host("hung_exec", "hung_start_is_given_up_when_asked_and_delays_nobody", "close_ends_a_hung_start"),
    ),
    Case(
        "H12",
        "umask, nice, limits, OOM score, CPUs: as the file says, seen in `/proc`",
        _here("faults", "a_process_is_set_up_as_the_file_says") + _host("setup", "cpus_are_the_workers_alone"),
        but="`no_new_privs` is no key of the file",
    ),
)

DEVICES = (
    Case(
        "GPU1",
        "The leader is killed, its grandchild ignores SIGTERM and holds the GPU: no second server beside it",
        _here("gpu", "no_second_server_is_started_on_a_held_gpu"),
    ),
)

CASES = (*STARTS, *STOPS, *PROBES, *LIMITS, *RELOADS, *MASTERS, *FAULTS, *DEVICES)
