"""Each way in which a start can fail, named so that a person knows what to mend."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from supervisor.core.message import Exited, SpawnFailed
from tests.host.processes_helpers import ENV, A, Rig, in_loop

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Case:
    """What is started where; ``{dir}`` is the test's own directory."""

    command: str
    number: int
    detail: str
    working_dir: str = "{dir}"
    env: dict[str, str] = field(default_factory=lambda: ENV)
    argument: str = ""


CASES = {
    "nowhere in PATH": Case("no-such-thing", errno.ENOENT, "command not found: no-such-thing"),
    "empty": Case("", errno.ENOENT, "command not found: "),
    "no such path": Case("bin/none", errno.ENOENT, "command not found: bin/none"),
    "broken link": Case("./dangling", errno.ENOENT, "command not found: ./dangling"),
    "a file as directory": Case("plain/x", errno.ENOTDIR, "command not found: plain/x (a part of its path is not a"),
    "not executable": Case("./plain", errno.EACCES, "not executable: {dir}/plain"),
    "not executable in PATH": Case("plain", errno.EACCES, "not executable: {dir}/plain", env={"PATH": "{dir}"}),
    "a directory": Case("./sub", errno.EACCES, "is a directory: {dir}/sub"),
    "a directory in PATH is passed over": Case("sub", errno.ENOENT, "command not found: sub", env={"PATH": "{dir}"}),
    "missing interpreter": Case("./lost", errno.ENOENT, "interpreter not found: /no/such/python (of {dir}/lost)"),
    "line end of another system": Case("./dos", errno.ENOENT, "interpreter not found: '/bin/sh\\r' (of {dir}/dos)"),
    "interpreter of an interpreter": Case(
        "./nested", errno.ENOENT, "interpreter not found: /no/such/python (of {dir}/lost)"
    ),
    "interpreter not executable": Case("./bad", errno.EACCES, "interpreter not executable: {dir}/plain (of {dir}/bad)"),
    "neither binary nor script": Case("./text", errno.ENOEXEC, "not a program: {dir}/text (neither a binary"),
    "missing directory": Case("true", errno.ENOENT, "working directory not found: {dir}/none", "{dir}/none"),
    "a file as working directory": Case(
        "true", errno.ENOTDIR, "working directory is not a directory: {dir}/plain", "{dir}/plain"
    ),
    "argument too long": Case("true", errno.E2BIG, "arguments and environment too long: ", argument="x" * (4 << 20)),
    "a NUL": Case("true", errno.EINVAL, "embedded null", argument="x\0y"),
    "a bad name": Case("true", errno.EINVAL, "illegal environment variable name", env={"A=B": "c"} | ENV),
}


@pytest.mark.parametrize("name", CASES)
@in_loop
async def test_failed_start_names_its_cause(name: str, tmp_path: Path) -> None:
    """Errno and words; the shim lives and starts the next."""
    case = CASES[name]
    make_files(tmp_path)

    def fill(text: str) -> str:
        return text.replace("{dir}", str(tmp_path))

    async with Rig() as rig:
        argv = [case.command] + [case.argument] * bool(case.argument)
        env = {key: fill(value) for key, value in case.env.items()}
        incarnation = rig.spawn(A, *argv, env=env, working_dir=fill(case.working_dir))
        failed = await rig.told(SpawnFailed, incarnation)
        again, _ = await rig.run(A, "true")

    assert case.number == failed.errno
    assert failed.detail.startswith(fill(case.detail)), failed.detail
    assert again.code == 0
    assert rig.about(incarnation) == ["SpawnFailed"]


def make_files(directory: Path) -> None:
    (directory / "sub").mkdir()
    (directory / "dangling").symlink_to("none")
    (directory / "plain").write_text("")
    for name, text in {
        "lost": "#!/no/such/python -u\n",
        "dos": "#!/bin/sh\r\nexit 0\r\n",
        "nested": f"#!{directory}/lost\n",
        "bad": f"#! {directory}/plain\n",
        "text": "echo no first line\n",
    }.items():
        (directory / name).write_text(text)
        (directory / name).chmod(0o755)


@in_loop
async def test_command_with_a_slash_is_relative_to_the_working_directory(tmp_path: Path) -> None:
    """So is a relative entry of PATH; each start looks anew."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "own"
    async with Rig() as rig:
        early = await rig.told(SpawnFailed, rig.spawn(A, "bin/own", working_dir=str(tmp_path)))
        program.write_text("#!/bin/sh\nexit 7\n")
        program.chmod(0o755)
        for command, path in (("bin/own", "/bin"), ("own", "/nowhere:bin"), ("own", f"{tmp_path}/bin")):
            incarnation = rig.spawn(A, command, env={"PATH": path}, working_dir=str(tmp_path))
            assert (await rig.told(Exited, incarnation)).code == 7

    assert early.errno == errno.ENOENT


@in_loop
async def test_path_of_the_worker_is_searched_not_ours(tmp_path: Path) -> None:
    """A worker without PATH finds what the system has."""
    async with Rig() as rig:
        failed = await rig.told(SpawnFailed, rig.spawn(A, "true", env={"PATH": str(tmp_path)}))
        exited = await rig.told(Exited, rig.spawn(A, "true", env={}))

    assert failed.detail == "command not found: true"
    assert exited.code == 0
    assert os.environ["PATH"]
