"""What root refuses to obey, and the files of variables beside a service file."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from supervisor.host.files import LoadedSpec, SpecRefused, load_spec

root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

GOOD = "services: {a: {command: x}}\n"
WITH_FILE = "services:\n  a:\n    command: x\n    env_file: vars.env\n"


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory, the current one, that belongs to who runs the tests alone."""
    tmp_path.chmod(0o700)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(content: str = GOOD) -> LoadedSpec:
    Path("demo.yaml").write_text(content)
    return load_spec(Path("demo.yaml"))


def refused(content: str | None = None) -> str:
    if content is not None:
        Path("demo.yaml").write_text(content)
    with pytest.raises(SpecRefused) as error:
        load_spec(Path("demo.yaml"))
    return "\n".join(error.value.lines)


# ---- who may write ---------------------------------------------------------------------------------------------------


@root
@pytest.mark.parametrize(("mode", "gid", "who"), [(0o666, 0, "everybody"), (0o664, 100, "group 100")])
def test_root_refuses_a_file_that_others_may_write(directory: Path, mode: int, gid: int, who: str) -> None:
    """Whoever writes it would run commands as root."""
    load()
    os.chown("demo.yaml", 0, gid)
    Path("demo.yaml").chmod(mode)

    text = refused()

    assert text.startswith(f"demo.yaml:1:1: {directory}/demo.yaml may be written by {who} (mode 0{mode:o})")
    assert f"hint: chmod {'go' if who == 'everybody' else 'g'}-w {directory}/demo.yaml" in text


@root
def test_root_refuses_a_file_of_somebody_else(directory: Path) -> None:
    """Its owner may always write it."""
    load()
    os.chown("demo.yaml", 12345, 0)

    assert "demo.yaml belongs to user 12345, who may change what root would run" in refused()


@root
def test_a_file_for_roots_own_group_is_trusted(directory: Path) -> None:
    """As with sudo."""
    load()
    Path("demo.yaml").chmod(0o664)

    load_spec(Path("demo.yaml"))


@root
def test_root_refuses_a_directory_on_the_way_that_others_may_write(directory: Path) -> None:
    """Who may rename it may put another in its place. A sticky one, as /tmp, keeps what is root's."""
    inner = directory / "open" / "inner"
    inner.mkdir(parents=True)
    (inner / "demo.yaml").write_text(GOOD)
    inner.parent.chmod(0o777)

    with pytest.raises(SpecRefused, match=f"{inner.parent} may be written by everybody"):
        load_spec(inner / "demo.yaml")
    inner.parent.chmod(0o1777)
    load_spec(inner / "demo.yaml")


@root
def test_root_refuses_a_link_that_others_may_turn(directory: Path) -> None:
    """The directory in which the link lies counts, and the one that it leads to."""
    for name in ("own", "open"):
        (directory / name).mkdir()
    (directory / "own" / "demo.yaml").write_text(GOOD)
    (directory / "open" / "link.yaml").symlink_to("../own/demo.yaml")
    (directory / "in.yaml").symlink_to("open/link.yaml")
    load_spec(directory / "in.yaml")

    (directory / "open").chmod(0o777)

    with pytest.raises(SpecRefused, match=f"{directory}/open may be written by everybody"):
        load_spec(directory / "in.yaml")


@root
def test_root_refuses_an_env_file_that_others_may_write(directory: Path) -> None:
    """Where the service file names it."""
    Path("vars.env").write_text("A=1\n")
    Path("vars.env").chmod(0o666)

    assert refused(WITH_FILE).startswith(
        f"demo.yaml:4:15: services.a.env_file: cannot use {directory}/vars.env: {directory}/vars.env may be written by"
    )


@root
def test_who_is_not_root_does_not_care(directory: Path) -> None:
    """It could harm nobody but itself."""
    load()
    Path("demo.yaml").chmod(0o666)
    directory.chmod(0o777)
    pid = os.fork()
    if pid == 0:
        try:
            os.setuid(12345)
            load_spec(Path("demo.yaml"))
            os._exit(0)
        finally:
            os.kill(os.getpid(), signal.SIGKILL)

    assert os.waitpid(pid, 0)[1] == 0


# ---- files of variables ----------------------------------------------------------------------------------------------


def test_an_env_file_is_part_of_what_the_file_says(directory: Path) -> None:
    """Another content is another launch at the next reload."""
    Path("vars.env").write_text("A=1\nB=$(X)\n")
    (before,) = load(WITH_FILE).spec.expand(1)
    Path("vars.env").write_text("A=2\nB=$(X)\n")
    (after,) = load(WITH_FILE).spec.expand(1)

    assert dict(before.recipe.env) == {"A": "1", "B": "$$(X)"}
    assert before.recipe != after.recipe


def test_every_problem_of_an_env_file_has_its_line(directory: Path) -> None:
    """And those of several files are said at once, each once however many services name it."""
    Path("vars.env").write_text("A=1\nexport B=2\n\nWORKER=3\n")
    Path("latin.env").write_bytes(b"A=1\nB=\xe4\n")
    content = WITH_FILE + "  b: {command: x, env_file: [vars.env, latin.env, none.env]}\n"

    none = directory / "none.env"
    assert refused(content).splitlines() == [
        f"demo.yaml:5:29: services.b.env_file: cannot use {none}: cannot read it: no such file or directory",
        f"{directory}/vars.env:2:1: expected NAME=VALUE, got 'export B' as the name",
        "  hint: leave export out",
        f"{directory}/vars.env:4:1: WORKER cannot be set here",
        "  hint: leave it out or use another name; the supervisor sets it for each worker",
        f"{directory}/latin.env:2:1: expected UTF-8, got other bytes",
    ]


def test_port_is_not_set_beside_port(directory: Path) -> None:
    """Wherever it is written."""
    Path("vars.env").write_text("PORT=1\n")

    assert "PORT cannot be set beside port" in refused(WITH_FILE + "    port: 8000\n")
    assert dict(load(WITH_FILE).spec.services["a"].env) == {"PORT": "1"}
