"""The token file: read whole, kept as a digest, and refused where others may read it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from supervisor.host.files import SpecRefused, load_spec
from supervisor.host.guard import FileFaultError
from supervisor.host.tokens import read_token

SECRET = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text(f"{SECRET}\n")
    file.chmod(0o600)
    return file


def test_a_digest_is_all_that_is_kept(file: Path) -> None:
    token = read_token(str(file))

    assert token.digest == hashlib.sha256(SECRET.encode()).digest()
    assert not token.is_short
    assert SECRET not in repr(token)
    assert str(token.digest) not in repr(token)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644])
def test_a_file_that_others_may_read_is_refused(file: Path, mode: int) -> None:
    file.chmod(mode)

    with pytest.raises(FileFaultError) as caught:
        read_token(str(file))

    assert (f"mode {mode:04o}" in caught.value.message) or "may be written" in caught.value.message
    assert "chmod" in caught.value.hint


def test_a_file_without_a_token_says_how_one_is_made(file: Path) -> None:
    file.write_text("\n")

    with pytest.raises(FileFaultError) as caught:
        read_token(str(file))

    assert caught.value.hint == f"openssl rand -hex 32 >{file} makes a token"


def test_what_is_wrong_with_it_stands_where_the_file_names_it(file: Path) -> None:
    spec = file.with_name("demo.yaml")
    spec.write_text("services: {}\ndaemon:\n  http: 127.0.0.1:9400\n  http_token_file: token\n")
    token = load_spec(spec).token
    assert token is not None
    assert token.digest == read_token(str(file)).digest

    file.unlink()
    with pytest.raises(SpecRefused) as caught:
        load_spec(spec)

    assert caught.value.lines == (
        f"{spec}:4:20: daemon.http_token_file: cannot use {file}: cannot read it: no such file or directory",
    )
