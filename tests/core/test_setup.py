"""The keys that set up a process, and files of variables."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.core.environment import Host, Moment, fill, late, render
from supervisor.core.file.env_file import BadLine, parse_env_file, with_variables
from supervisor.core.file.names import expand_names, literal
from supervisor.core.file.setup import NO_SETUP, Limit, Setup
from supervisor.core.message import Spawn
from supervisor.core.plan import Launch
from supervisor.core.spec import WorkerId, parse_spec, unknown_names
from tests.core import builders
from tests.core.spec_documents import problem_of, workers_of
from tests.core.stage import Stage


def setup_of(**keys: object) -> Setup:
    return workers_of(1, **keys)[0].recipe.setup


# ---- keys ------------------------------------------------------------------------------------------------------------


def test_nothing_said_is_nothing_set() -> None:
    """Everything is inherited."""
    assert setup_of() is NO_SETUP


def test_every_key_is_part_of_the_launch() -> None:
    """A change of any of them means a new process."""
    keys: dict[str, object] = {"user": "ann", "group": 44, "umask": "027", "nice": -5, "oom_score_adj": 100}

    assert setup_of(**keys, limits={"nofile": 65536}) == Setup(
        "ann", "44", 0o027, (("nofile", Limit(65536, 65536)),), -5, 100
    )
    for key, value in keys.items():
        assert workers_of(1, **{key: value})[0].recipe != workers_of()[0].recipe


@pytest.mark.parametrize(("written", "meant"), [("022", 0o22), (22, 0o22), ("0027", 0o27), ("0o77", 0o77), (0, 0)])
def test_a_umask_is_octal_however_it_is_written(written: object, meant: int) -> None:
    """As with systemd and every shell."""
    assert setup_of(umask=written).umask == meant


@pytest.mark.parametrize("written", ["088", 18, "1777", "u=rwx", True, None, -1, 2.0])
def test_what_is_no_umask_is_refused(written: object) -> None:
    """With what one looks like."""
    assert problem_of(umask=written)[1].message.startswith("expected an octal umask from 000 to 777 such as 027, got")


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ({"nofile": 1024}, ("nofile", Limit(1024, 1024))),
        ({"nofile": "1024:4096"}, ("nofile", Limit(1024, 4096))),
        ({"nofile": {"soft": 1024, "hard": 4096}}, ("nofile", Limit(1024, 4096))),
        ({"nofile": {"soft": 1024}}, ("nofile", Limit(1024, None))),
        ({"memlock": "infinity"}, ("memlock", Limit(-1, -1))),
        ({"memlock": -1}, ("memlock", Limit(-1, -1))),
        ({"memlock": "64MiB:infinity"}, ("memlock", Limit(64 * 2**20, -1))),
        ({"core": 0}, ("core", Limit(0, 0))),
        ({"cpu": "1h"}, ("cpu", Limit(3600, 3600))),
    ],
)
def test_a_limit_is_one_value_two_or_a_map(written: object, meant: object) -> None:
    """systemd's ways and docker compose's."""
    assert setup_of(limits=written).limits == (meant,)


@pytest.mark.parametrize(
    ("written", "message", "hint"),
    [
        ({"nofiles": 1}, "unknown limit 'nofiles'", "did you mean nofile?"),
        ({"LimitNOFILE": 1}, "unknown limit 'LimitNOFILE'", "did you mean nofile?"),
        ({"nofile": "4096:1024"}, "the soft limit is above the hard one", ""),
        ({"nofile": {"soft": "infinity", "hard": 4}}, "expected a whole number from 16, or infinity, got 4", ""),
        ({"nofile": {"hard": 1024}}, "expected a soft limit", "write {soft: 1024, hard: 4096}, or one value for both"),
        ({"nproc": "many"}, "expected a whole number from 0, or infinity, got 'many'", ""),
        ({"nproc": "1:x"}, "expected a whole number from 0, or infinity, got 'x'", ""),
    ],
)
def test_what_is_no_limit_is_refused(written: object, message: str, hint: str) -> None:
    """With what was probably meant."""
    problem = problem_of(limits=written)[1]

    assert (problem.message, problem.hint) == (message, hint)


@pytest.mark.parametrize("written", ["ann:video", "", "-1", 2**32, "a b", None, "-ann"])
def test_what_is_no_user_is_refused(written: object) -> None:
    """Whether there is such a user is for the host to know."""
    assert problem_of(user=written)[0] == "user"


@pytest.mark.parametrize(("key", "bad"), [("nice", 20), ("nice", -21), ("oom_score_adj", 1001), ("oom_score_adj", "x")])
def test_what_the_kernel_would_refuse_is_refused(key: str, bad: object) -> None:
    """Before anything is started."""
    assert problem_of(**{key: bad})[1].message.startswith("expected a whole number from")


def test_a_start_carries_the_set_up() -> None:
    """What the file says reaches who starts it."""
    stage = Stage().load(builders.spec_of(llm={"nice": 3}))

    (spawn,) = builders.of_type(Spawn, stage.actions)

    assert spawn.setup == Setup(nice=3)


# ---- the user's own variables ----------------------------------------------------------------------------------------


def rendered(account: dict[str, str], **keys: object) -> tuple[tuple[str, ...], dict[str, str]]:
    (worker,) = workers_of(1, **keys)
    host = Host({"HOME": "/root", "USER": "root", "LOGNAME": "root"})
    done = fill(render(Launch(worker.recipe), Moment(WorkerId("llm", 0), 1, 0, 1, {}), host), account)
    return done.argv, dict(done.env)


ANN = {"HOME": "/home/ann", "USER": "ann", "LOGNAME": "ann"}


def test_a_user_finds_its_own_home() -> None:
    """Not the daemon's; also in the command."""
    argv, env = rendered(ANN, user="ann", command="serve $(HOME) $$(HOME)", env={"CACHE": "$(HOME)/cache"})

    assert argv == ("serve", "/home/ann", "$(HOME)")
    assert env.items() >= (ANN | {"CACHE": "/home/ann/cache"}).items()


def test_a_home_that_the_file_sets_stays() -> None:
    """The contract: unless set."""
    _, env = rendered(ANN, user="ann", env={"HOME": "/srv"})

    assert (env["HOME"], env["USER"]) == ("/srv", "ann")


def test_without_a_user_the_daemons_home_is_inherited() -> None:
    """Nothing is put in its place."""
    assert rendered(ANN)[1]["HOME"] == "/root"
    assert late("HOME") not in str(rendered(ANN))


def test_names_of_the_user_database_are_known_but_for_log_files() -> None:
    """Their place is decided before anybody is asked."""
    service = {"command": "x $(HOME)", "user": "ann", "logs": {"file": "$(HOME)/log"}}
    spec = parse_spec({"services": {"a": service}}, base_dir="/")

    (problem,) = unknown_names(spec, {})

    assert problem.path == ("services", "a", "logs", "file")


# ---- files of variables ----------------------------------------------------------------------------------------------


def test_a_line_is_a_name_and_whatever_follows() -> None:
    """As `docker run --env-file` reads it."""
    text = '# comment\n\nA=1\n  B=two words \nC="x"\nD=a=b # no comment\nE=\nHOME\nA=2\r\n'

    assert parse_env_file(text) == (
        {"A": "2", "B": "two words ", "C": '"x"', "D": "a=b # no comment", "E": ""},
        (),
    )


def test_every_bad_line_is_named() -> None:
    """All at once."""
    _, bad = parse_env_file("=x\nexport A=1\nB C=2\nCUDA_VISIBLE_DEVICES=0\nOK=1\nN=\0\n")

    assert [line.number for line in bad] == [1, 2, 3, 4, 6]
    assert bad[1] == BadLine(2, "expected NAME=VALUE, got 'export A' as the name", "leave export out")
    assert bad[3].message == "CUDA_VISIBLE_DEVICES cannot be set here"


def test_a_file_stands_between_the_defaults_and_the_services_own_words() -> None:
    """CONTRACT section 2, lowest first; the last file has the last word of the files."""
    document = {
        "defaults": {"env": {"A": "defaults", "B": "defaults", "D": "defaults"}},
        "services": {"a": {"command": "x", "env_file": "f", "env": {"B": "env"}, "workers": [{"env": {"C": "entry"}}]}},
    }
    service = parse_spec(document, base_dir="/srv").services["a"]
    assert service.env_file == ("/srv/f",)

    files = [{"A": "old", "B": "file", "C": "file"}, {"A": "file"}]
    (worker,) = with_variables(service, files).expand("a", 1)

    assert dict(worker.recipe.env) == {"A": "file", "B": "env", "C": "entry", "D": "defaults"}


@given(st.text(alphabet="$()AB x", max_size=12))
def test_a_files_value_is_literal(text: str) -> None:
    """No name in it is replaced."""
    assert expand_names(literal(text), {"A": "1", "B": "2"}) == text


@pytest.mark.parametrize("written", ["", None, [1, ""], {"path": "x"}, True])
def test_what_is_no_file_is_refused(written: object) -> None:
    """One path, or a list of them."""
    assert problem_of(env_file=written)[0].startswith("env_file")
