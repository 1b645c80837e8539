"""Command strings."""

from __future__ import annotations

import re
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.core.file.command import split_command
from supervisor.core.file.problems import BadValueError


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("vllm serve x --port $(PORT)", ("vllm", "serve", "x", "--port", "$(PORT)")),
        ("  a\t'b c' \"d 'e'\" f\\ g  ", ("a", "b c", "d 'e'", "f g")),
        ("a '' b", ("a", "", "b")),
        ("a 'b'\"c\"d", ("a", "bcd")),
        ("a \\\n  b", ("a", "b")),
        ('a "\\"\\$x\\n"', ("a", '"$x\\n')),
        ("a # b", ("a", "#", "b")),
        ("grep '|' \">\" \\; '$HOME'", ("grep", "|", ">", ";", "$HOME")),
        ("curl http://h/?a=1&b=2", ("curl", "http://h/?a=1&b=2")),
        ("sh -c 'a | b > $C; d'", ("sh", "-c", "a | b > $C; d")),
        ('sh -c "echo $C `d`; e"', ("sh", "-c", "echo $C `d`; e")),
        ('bash -ec "echo ${C}"', ("bash", "-ec", "echo ${C}")),
        ("a $$(B) $( x", ("a", "$$(B)", "$(", "x")),
        ("a --price $5", ("a", "--price", "$5")),
    ],
)
def test_a_command_is_split_as_a_shell_would(text: str, words: tuple[str, ...]) -> None:
    """Quotes, escapes and joined lines work; what is quoted is nobody's operator."""
    assert words == split_command(text)


@pytest.mark.parametrize(
    "sign", ["|", "||", "&&", "&", ";", ">", ">>", "<", "2>", "2>&1", "&>", ">log", "<in", "2>log"]
)
def test_an_operator_is_refused_with_the_hint_to_write_a_shell(sign: str) -> None:
    """No shell is run, so an operator would reach the program as an argument."""
    with pytest.raises(BadValueError, match="no shell is run") as refused:
        split_command(f"a {sign} b" if sign != "&" else "a &")

    assert "sh -c" in refused.value.hint


@pytest.mark.parametrize("text", ["a $HOME", "a ${HOME}", 'a "$HOME/b"', "a=$HOME", "$HOME/a"])
def test_a_shell_variable_is_refused_with_the_hint_to_write_a_name(text: str) -> None:
    """Also between double quotes, where a shell would replace it."""
    with pytest.raises(BadValueError) as refused:
        split_command(text)

    assert refused.value.hint == "write $(HOME)"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        (" \n ", "empty"),
        ("'' a", "empty"),
        ("a 'b", "never closed"),
        ('a "b', "never closed"),
        ("a \\", "backslash"),
        ("a; b", "';'"),
        ("a `b`", "backticks"),
        ("a ${B:-c}", "not replaced"),
        ("A=1 b", "sets nothing"),
    ],
)
def test_what_no_program_can_be_started_from_is_refused(text: str, message: str) -> None:
    """Each with words on what is wrong."""
    with pytest.raises(BadValueError, match=message):
        split_command(text)


@given(
    st.lists(st.text(alphabet=st.characters(exclude_characters="\0")), min_size=1).filter(lambda words: bool(words[0]))
)
def test_a_quoted_command_comes_back_as_it_was(words: list[str]) -> None:
    """What shlex quotes is split into the same words, whatever they contain."""
    is_assignment = re.match(r"[A-Za-z_][A-Za-z0-9_]*=", words[0]) is not None
    if not is_assignment and not any("\\\n" in word for word in words):
        assert tuple(words) == split_command(shlex.join(words))


@given(st.text(alphabet="ab '\"\\\t"))
def test_splitting_agrees_with_shlex(text: str) -> None:
    """Nothing of a shell's splitting is our own invention."""
    try:
        expected = tuple(shlex.split(text))
    except ValueError:
        expected = ()
    if expected and expected[0]:
        assert expected == split_command(text)
    else:
        with pytest.raises(BadValueError):
            split_command(text)


def test_a_long_command_is_split_in_time() -> None:
    """A megabyte of quotes costs time by its length, not by its square."""
    assert split_command("a" + "'b'c" * 40_000) == ("a" + "bc" * 40_000,)
