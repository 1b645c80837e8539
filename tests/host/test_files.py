"""The service file on disk."""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supervisor.core.spec import Problem, unknown_names
from supervisor.host import yaml_tree
from supervisor.host.files import FILE_MAX_BYTES, LoadedSpec, SpecRefused, load_spec

GOOD = "services:\n  llm:\n    command: serve\n"

GPU_WORDS = "a fraction such as 0.25, a whole number from 0 to 1024, or all"


@pytest.fixture(params=["libyaml", "python"])
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both parsers that PyYAML may bring along."""
    if request.param == "python":
        monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    elif not hasattr(yaml, "CSafeLoader"):
        pytest.skip("PyYAML without libyaml")


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory that is the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(content: str | bytes) -> LoadedSpec:
    """The file ``demo.yaml`` of the current directory with this content."""
    path = Path("demo.yaml")
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return load_spec(path)


def refused(content: str | bytes) -> tuple[str, ...]:
    with pytest.raises(SpecRefused) as error:
        load(content)
    return error.value.lines


def env_of(text: str) -> dict[str, str]:
    """The variables of a service whose ``env`` is this flow map."""
    return load(f"services: {{a: {{command: x, env: {text}}}}}").spec.services["a"].env


# ---- lines and columns -----------------------------------------------------------------------------------------------


def test_every_problem_has_its_line_in_the_files_order(directory: Path, parser: None) -> None:
    """Values at the value, unknown keys at the key, missing ones at the map they are missing in; hints below."""
    lines = refused("""\
defaults:
  preload: []
services:
  b:
    wrkers: 3
  a:
    command: x
    workers: [{gpus: [0]}, {gpu: -1}]
    port: 0x10000
daemon: {socket_group: x, gpu_wait: soon}
""")

    assert lines == (
        "demo.yaml:2:3: defaults.preload: preload is not supported yet",
        "demo.yaml:4:3: services.b.command: a service needs a command\n  hint: write command: PROGRAM ARGUMENTS",
        "demo.yaml:5:5: services.b.wrkers: unknown key 'wrkers'\n  hint: did you mean workers?",
        f"demo.yaml:8:34: services.a.workers[1].gpu: expected {GPU_WORDS}, got -1",
        "demo.yaml:9:11: services.a.port: expected a whole number from 1 to 65535, got 0x10000",
        "demo.yaml:10:10: daemon.socket_group: socket_group is not supported yet",
        (
            "demo.yaml:10:37: daemon.gpu_wait: expected a duration such as 500ms, 10s, 5m, 2h or 1d, got 'soon'"
            "\n  hint: the units are ms, s, m, h and d; a bare number is seconds"
        ),
    )


def test_the_file_is_named_as_the_person_named_it(directory: Path) -> None:
    """Also one that does not exist."""
    with pytest.raises(SpecRefused) as error:
        load_spec(directory / "no" / "demo.yaml")

    assert error.value.lines == (f"{directory}/no/demo.yaml:1:1: cannot read it: no such file or directory",)


def test_what_is_wrong_with_the_yaml_is_said_together_with_the_rest(directory: Path, parser: None) -> None:
    """Duplicate keys, tags and keys that are no strings stop nothing."""
    lines = refused("""\
services:
  a:
    command: x
    port: 1
    port: 2
    env: {1: x, A: !secret y, ? [b] : c}
    preload: []
1: 2
""")

    assert lines == (
        "demo.yaml:5:5: services.a.port: duplicate key 'port'; the first is in line 4",
        "demo.yaml:6:11: services.a.env.1: keys are strings, got 1\n  hint: quote it",
        "demo.yaml:6:20: services.a.env.A: unknown tag '!secret'\n  hint: remove it",
        "demo.yaml:6:33: services.a.env.a list: keys are strings, got a list\n  hint: quote it",
        "demo.yaml:7:5: services.a.preload: preload is not supported yet",
        "demo.yaml:8:1: 1: keys are strings, got 1\n  hint: quote it",
    )


def test_numbers_are_keys_where_they_are_numbers_to_everybody(directory: Path) -> None:
    """XIDs need no quotes; one that is there twice, or is none, is refused at its place."""
    assert load("services: {}\nhealth: {xids: {94: hardware, 31: ignore}}\n").spec.health.xids == (
        (94, "hardware"),
        (31, "ignore"),
    )
    assert refused("services: {}\nhealth:\n  xids: {94: ignore, 94: hardware, 1.5: ignore, '094': ignore}\n") == (
        "demo.yaml:3:22: health.xids.94: duplicate key '94'; the first is in line 3",
        "demo.yaml:3:36: health.xids.1.5: keys are strings, got 1.5\n  hint: quote it",
        "demo.yaml:3:49: health.xids.094: XID 94 is there already\n  hint: leave one of them out",
    )


def test_a_duplicate_key_of_an_else_good_file_is_refused(directory: Path) -> None:
    """Which of the two was meant is not ours to choose."""
    assert len(refused(GOOD + "    command: other\n")) == 1


def test_a_problem_found_later_gets_its_line_too(directory: Path) -> None:
    """Where its value is written: at the defaults if it comes from there, and then once."""
    loaded = load("defaults: {env: {A: $(B)}}\nservices:\n  a: {command: x}\n  b: {command: x $(C)}\n")

    assert loaded.locate_all(unknown_names(loaded.spec, {})) == (
        "demo.yaml:1:21: defaults.env.A: $(B) has no value\n  hint: write $$(B) for the shell, or set B under env",
        "demo.yaml:4:16: services.b.command: $(C) has no value\n  hint: write $$(C) for the shell, or set C under env",
    )
    assert loaded.locate(Problem(("services", "a", "port"), "word")) == "demo.yaml:3:3: services.a.port: word"
    assert loaded.locate(Problem((), "word")) == "demo.yaml:1:1: word"


def test_relative_paths_begin_at_the_files_directory(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the daemon was started."""
    (directory / "sub").mkdir()
    (directory / "sub" / "demo.yaml").write_text(GOOD + "    working_dir: models\n")

    assert load_spec(Path("sub/demo.yaml")).spec.services["llm"].working_dir == f"{directory}/sub/models"


# ---- anchors ---------------------------------------------------------------------------------------------------------


def test_anchors_aliases_and_merge_keys_work(directory: Path, parser: None) -> None:
    """A map's own keys win over merged ones, the first of several maps over the next."""
    services = load("""\
x-env: &env {A: 1, B: 2}
x-more: &more {B: 3, C: 4}
x-service: &service
  command: serve
  env: {<<: [*env, *more], A: 5}
services:
  a: *service
  b: {<<: *service, env: *more}
""").spec.services

    assert services["a"].env == {"A": "5", "B": "2", "C": "4"}
    assert services["b"].env == {"B": "3", "C": "4"}
    assert services["b"].command == ("serve",)


def test_a_problem_behind_an_alias_is_said_once_where_it_is_written(directory: Path) -> None:
    """Two services share it."""
    lines = refused("x-s: &s {command: x, port: no}\nservices: {a: *s, b: {<<: *s}}\n")

    assert lines == ("demo.yaml:1:28: services.a.port: expected a whole number from 1 to 65535, got 'no'",)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a: *b\n", "unknown alias 'b'"),
        ("a: &a [*a]\n", "stands inside of what it names"),
        ("a: &a {<<: *a}\n", "stands inside of what it names"),
        (GOOD + "    <<: 3\n", "<< takes a map"),
        (GOOD + "    <<: {}\n    <<: {}\n", "duplicate key <<"),
    ],
)
def test_a_wrong_alias_is_refused(directory: Path, parser: None, content: str, words: str) -> None:
    """Without following it."""
    assert words in refused(content)[0]


def test_a_merge_key_in_quotes_is_a_key(directory: Path) -> None:
    """Only the plain one merges."""
    assert env_of('{"<<": x}') == {"<<": "x"}


def alias_bomb(levels: int) -> str:
    names = [f"a{level}" for level in range(levels)]
    lines = [f"{name}: &{name} [{', '.join([f'*{below}'] * 9)}]" for below, name in itertools.pairwise(names)]
    return "\n".join([f"a0: &a0 [{', '.join(['x'] * 9)}]", *lines, ""])


@pytest.mark.parametrize("content", [alias_bomb(40), "x: " + "[" * 200_000, "x: " + "{a: " * 200_000, "- " * 200_000])
def test_a_bomb_is_refused_in_bounded_time(directory: Path, parser: None, content: str) -> None:
    """Aliases that write out to more than memory holds, and nesting deeper than Python's stack."""
    began = time.process_time()

    lines = refused(content)

    assert "more than 100000 values" in lines[0] or "nested deeper than 50 levels" in lines[0]
    assert time.process_time() - began < 5


@pytest.mark.slow
@pytest.mark.parametrize(
    "content",
    [
        "services:\n" + "".join(f"  s{index}: {{port: x}}\n" for index in range(15_000)),
        "services: {a: {" + ", ".join(f"key{index}: 1" for index in range(45_000)) + "}}\n",
        "services: {a: {<<: [" + ", ".join(f"{{k{index}: 1}}" for index in range(30_000)) + "]}}\n",
    ],
    ids=["services", "keys", "merges"],
)
def test_ten_thousands_of_problems_are_reported_in_bounded_time(directory: Path, content: str) -> None:
    """Nothing that is done for one of them grows with their number."""
    began = time.process_time()

    assert len(refused(content)) >= 15_000
    assert time.process_time() - began < 20


def test_a_file_too_large_is_refused(directory: Path) -> None:
    """Before it is parsed."""
    assert "at the most" in refused(b"#" * (FILE_MAX_BYTES + 1))[0]
    assert load(GOOD.encode().ljust(FILE_MAX_BYTES, b"\n"))


# ---- scalars ---------------------------------------------------------------------------------------------------------


def test_numbers_reach_env_as_they_are_written(directory: Path, parser: None) -> None:
    """3.10 is no 3.1, and a hexadecimal number is not recounted."""
    assert env_of("{A: 3.10, B: 0x1F, C: +7, D: 1e3, E: .inf, F: 0o17}") == {
        "A": "3.10",
        "B": "0x1F",
        "C": "+7",
        "D": "1e3",
        "E": ".inf",
        "F": "0o17",
    }


@pytest.mark.parametrize(
    "text", ["yes", "no", "on", "Off", "y", "1:30", "0755", "1_000", "2024-01-01", "0b11", "=", "10:00.0", "1.", "008"]
)
def test_what_yaml_1_1_would_turn_into_something_else_stays_text(directory: Path, parser: None, text: str) -> None:
    """Booleans, base 60, octal numbers and dates that nobody meant."""
    assert env_of(f"{{A: {text}}}") == {"A": text}


@pytest.mark.parametrize("port", ["08000", "8_000", "2:13:20", "yes", "'8000'", "8000.5", ".nan", "9" * 400, "-0x1"])
def test_what_is_no_number_of_yaml_1_2_is_none_here(directory: Path, parser: None, port: str) -> None:
    """Neither reading is guessed where a number is asked."""
    assert len(refused(GOOD + f"    port: {port}\n")) == 1


def test_a_number_is_one_in_each_notation_of_yaml_1_2(directory: Path, parser: None) -> None:
    """Decimal, hexadecimal, octal."""
    ports = [
        load(GOOD + f"    port: {port}\n").spec.services["llm"].port for port in ("8000", "0x1F40", "0o17500", "8e3")
    ]

    assert ports == [8000] * 4
    assert {type(port) for port in ports} == {int}


def test_the_safe_tags_say_what_a_value_is(directory: Path, parser: None) -> None:
    """``!!str`` and ``!`` make text; one that lies is refused."""
    assert env_of('{A: !!str true, B: ! 08, C: !!int "7", D: !!str }') == {"A": "true", "B": "08", "C": "7", "D": ""}
    assert "is not what its tag says" in refused(GOOD + "    port: !!int x\n")[0]
    assert "unknown tag" in refused(GOOD + "    port: !!python/name:os.system x\n")[0]


# ---- what is no such file --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "start", "words"),
    [
        (b"", "1:1", "the file is empty"),
        (b"# nothing\n", "1:1", "the file is empty"),
        (b"---\n...\n", "1:1", "the file is empty"),
        (b"- a\n", "1:1", "expected a map"),
        (b"\njust words\n", "2:1", "expected a map"),
        (b"a: 1\n---\nb: 2\n", "2:1", "expected one document"),
        (b"services:\n\ta: 1\n", "2:1", "a tab where YAML wants spaces"),
        (b"a: b: c\n", "1:5", "mapping values"),
        (b"a: @b\n", "1:4", "cannot begin with @"),
        (b"a: [1\n", "2:1", "no YAML"),
        (b"a: 1\nb: \xff\n", "2:4", "expected UTF-8"),
        ("ä: ä\0".encode(), "1:5", "NUL"),
        (b"a: \x1b[0m\n", "1:4", "control character '\\x1b'"),
        ("a: 1".encode("utf-16"), "1:1", "expected UTF-8"),
        (b'a: "\\ud800"\n', "1:", ""),
        (b'a: "\\UFFFFFFFF"\n', "1:", ""),
    ],
)
def test_what_is_no_yaml_is_refused_at_its_place(
    directory: Path, parser: None, content: bytes, start: str, words: str
) -> None:
    """One line, no jargon where the cause is known, never a traceback."""
    line = refused(content)[0]

    assert line.startswith(f"demo.yaml:{start}")
    assert words in line


def test_a_byte_order_mark_is_skipped(directory: Path) -> None:
    """Editors on other systems write one."""
    assert load(b"\xef\xbb\xbf" + GOOD.encode())


def test_what_is_no_readable_file_is_refused(directory: Path) -> None:
    """A directory, a pipe that nobody writes to, a name that no file can have; none of them is waited for."""
    os.mkfifo("pipe")

    for name, words in [
        (".", "is a directory"),
        ("pipe", "is no regular file"),
        ("a\0b", "null"),
        ("b" * 300, "too long"),
    ]:
        with pytest.raises(SpecRefused, match=words):
            load_spec(Path(name))


def test_no_descriptor_is_left_open(directory: Path) -> None:
    """A reload a minute would use them up."""
    before = len(list(Path("/proc/self/fd").iterdir()))

    refused("a: 1")
    with pytest.raises(SpecRefused):
        load_spec(Path())

    assert len(list(Path("/proc/self/fd").iterdir())) == before


# ---- anything whatever -----------------------------------------------------------------------------------------------

WORDS = "services: defaults: command: workers: env: <<: &a *a !!str !x - : ? a 1 { } [ ] , ' | > # % --- ... ~ x- é"
PIECES = st.sampled_from([*WORDS.split(), *'"\\\t\x85', "\n", "\n  ", "\n    ", "- ", ": "])


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=60), st.lists(PIECES, max_size=25).map(lambda pieces: "".join(pieces).encode())))
def test_no_bytes_make_anything_but_a_spec_or_a_refusal(directory: Path, parser: None, content: bytes) -> None:
    """Every line has the file's name, a line and a column."""
    try:
        load(content)
    except SpecRefused as error:
        assert error.lines
        for line in error.lines:
            name, row, column, message = line.split(":", 3)
            assert (name, bool(message)) == ("demo.yaml", True)
            assert int(row) >= 1
            assert int(column) >= 1


def test_positions_follow_lists_and_maps() -> None:
    """The deepest key that exists answers for what does not."""
    root, flaws = yaml_tree.read_tree("a:\n  - b: 1\n  - c\n")

    assert root is not None
    assert not flaws
    assert yaml_tree.mark_of(root, ("a", 0, "b")) == (2, 8)
    assert yaml_tree.mark_of(root, ("a", 0, "b"), at_key=True) == (2, 5)
    assert yaml_tree.mark_of(root, ("a", 1)) == (3, 5)
    assert yaml_tree.mark_of(root, ("a", 2)) == (1, 1)
    assert yaml_tree.mark_of(root, ("z",)) == (1, 1)
