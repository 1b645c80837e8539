"""Environments without their values, in which decisions stay what they are."""

from __future__ import annotations

import pytest

from supervisor.core.environment import Host, Moment, render
from supervisor.core.message import Spawn
from supervisor.core.plan import Launch
from supervisor.core.spec import Recipe, WorkerId
from supervisor.core.veil import OTHERS, Veil

VEIL = Veil(b"key")
LLM = WorkerId("llm", 0)


def test_a_value_is_gone_and_equal_ones_stay_equal() -> None:
    assert "hunter2" not in VEIL.text("hunter2")
    assert VEIL.text("hunter2") == VEIL.text("hunter2") != VEIL.text("hunter3")


def test_nobody_can_try_values_without_the_key() -> None:
    """A digest without one would betray a short secret."""
    assert VEIL.text("hunter2") != Veil(b"other").text("hunter2")


def test_what_a_value_refers_to_stays() -> None:
    """The order in which variables are filled in, and whether a port is looked for, depend on it."""
    veiled = VEIL.text("pre $(TOKEN) $$(NOT) in(MASTER_PORT) (else)")

    assert "$(TOKEN)" in veiled
    assert "$$(NOT)" in veiled
    assert "(MASTER_PORT)" in veiled
    assert not {"pre", "in", "else"} & set(veiled.replace("(", " ").replace(")", " ").split())


@pytest.mark.parametrize("text", ["", "hunter2", "a$(B)c", "$(A)", "redacted:", "(MASTER_PORT)x"])
def test_once_is_as_good_as_twice(text: str) -> None:
    """A replay takes the veil for the value, and another key must not change it."""
    once = VEIL.text(text)

    assert Veil(b"other").text(once) == once


def test_what_status_shows_is_shown() -> None:
    assert VEIL.values({"CUDA_VISIBLE_DEVICES": "3", "PATH": "/bin"})["CUDA_VISIBLE_DEVICES"] == "3"
    assert VEIL.templates({"PORT": "8000"}) == {"PORT": "8000"}
    assert "8000" not in VEIL.templates({"PORT": "8000$(TOKEN)"})["PORT"]


def spawn_of(env: dict[str, str], environ: dict[str, str], command: tuple[str, ...]) -> Spawn:
    launch = Launch(Recipe(command=command, env=tuple(sorted(env.items())), working_dir="/srv/$(TOKEN)", port=8000))
    done = render(launch, Moment(LLM, 1, 0, 1, {}), Host(environ))
    return Spawn(LLM, 1, launch, done.argv, done.env, done.working_dir)


@pytest.mark.parametrize(
    ("env", "environ"),
    [
        ({"TOKEN": "hunter2"}, {"PATH": "/bin"}),
        ({"TOKEN": "$(OTHER)2", "OTHER": "hunter"}, {"OMP_NUM_THREADS": "4"}),
        ({"OMP_NUM_THREADS": "$(TOKEN)"}, {"TOKEN": "hunter2", "OMP_NUM_THREADS": "4"}),
        ({"OMP_NUM_THREADS": "3", "PYTHONUNBUFFERED": "0"}, {"TOKEN": "hunter2"}),
    ],
)
def test_an_order_is_the_same_made_of_values_and_of_none(env: dict[str, str], environ: dict[str, str]) -> None:
    """Of the one it is recorded, of the other it is made again."""
    command = ("serve", "--key=$(TOKEN)", "--port", "$(PORT)", "$(WORKER)", "$$(X)", "$(OMP_NUM_THREADS)", "$(NONE)")

    live = VEIL.spawn(spawn_of(env, environ, command))
    again = VEIL.spawn(spawn_of(VEIL.templates(env), VEIL.values(environ), command))

    assert (live.argv, live.env, live.working_dir) == (again.argv, again.env, again.working_dir)
    assert live.argv[1:6] == ("--key=$(TOKEN)", "--port", "8000", "llm/0", "$(X)")
    assert live.working_dir == "/srv/$(TOKEN)"
    assert live.env["WORKER"] == "llm/0"
    assert "hunter2" not in repr((live.argv, live.env, live.working_dir))
    assert "TOKEN" not in live.env


def test_another_variable_is_another_order() -> None:
    """Which names there are is a decision, though the values are not told."""
    one, other = (VEIL.spawn(spawn_of({name: "x"}, {}, ("serve",))) for name in ("A", "B"))

    assert one.env[OTHERS] != other.env[OTHERS]
