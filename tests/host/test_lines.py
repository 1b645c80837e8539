import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.host.logs import LINE_MAX, TAIL_LINES, Lines


def test_lines_get_the_workers_name_in_front() -> None:
    """Each line carries its worker, empty ones too."""
    assert Lines("llm/0").feed(b"one\n\ntwo\n") == b"llm/0 | one\nllm/0 | \nllm/0 | two\n"


def test_partial_line_waits_for_its_end() -> None:
    """Half a line is not written before its other half."""
    lines = Lines("llm/0")

    assert lines.feed(b"load") == b""
    assert lines.feed(b"ing\nre") == b"llm/0 | loading\n"
    assert lines.finish() == b"llm/0 | re\n"
    assert lines.finish() == b""


def test_finished_partial_line_is_not_followed_by_an_empty_one() -> None:
    """The line feed that comes after the flush ends nothing any more."""
    lines = Lines("llm/0")
    lines.feed(b"half")
    lines.finish()

    assert lines.feed(b"\nnext\n") == b"llm/0 | next\n"


def test_carriage_returns_go_at_line_ends_only() -> None:
    """Lines of terminals lose their carriage return, progress bars keep theirs inside."""
    lines = Lines("a/0")

    assert lines.feed(b"one\r\n1%\r2%\r\r\n") == b"a/0 | one\na/0 | 1%\r2%\n"
    assert lines.feed(b"three\r") == b""
    assert lines.feed(b"\n") == b"a/0 | three\n"


@pytest.mark.parametrize("extra", [b"", b"x", b"x" * LINE_MAX, b"x" * LINE_MAX * 3 + b"yz"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("step", [1000, LINE_MAX, LINE_MAX + 1, 1 << 20])
def test_long_line_comes_in_bounded_pieces(extra: bytes, end: bytes, step: int) -> None:
    """A line beyond the limit is cut, however it arrives, and loses nothing."""
    line = b"a" * LINE_MAX + extra
    text = line + end + b"next\n"
    lines = Lines("a/0")

    got = b"".join(lines.feed(text[start : start + step]) for start in range(0, len(text), step))

    *pieces, following = [piece.removeprefix(b"a/0 | ") for piece in got.splitlines()]
    assert line == b"".join(pieces)
    assert -(-len(line) // LINE_MAX) == len(pieces)
    assert max(map(len, pieces)) <= LINE_MAX
    assert following == b"next"


def test_long_line_is_cut_between_characters() -> None:
    """No piece ends within a character of several bytes."""
    text = "x" + "å€😀" * 10_000
    lines = Lines("a/0")

    got = lines.feed(text.encode()) + lines.finish()

    assert text == "".join(piece.removeprefix("a/0 | ") for piece in got.decode().splitlines())


def test_tail_has_the_last_lines_bounded() -> None:
    """The tail keeps 20 lines of at most 2 KiB, partial one included, invalid UTF-8 replaced."""
    lines = Lines("a/0")
    lines.feed(b"".join(b"line %d\n" % number for number in range(100)))
    lines.feed(b"y" * 5000 + b"\n\xffbad")
    lines.finish()

    tail = lines.tail()

    assert len(tail) == TAIL_LINES
    assert (tail[0], *tail[-3:]) == ("line 82", "line 99", "y" * 2048, "�bad")


@given(st.lists(st.binary(max_size=30) | st.sampled_from([b"\n", b"\r\n", b"z" * LINE_MAX])))
def test_lines_do_not_depend_on_how_the_text_arrives(chunks: list[bytes]) -> None:
    """Any cut of the text into reads gives the same lines as one read, up to where long ones are cut."""
    whole, parts = Lines("a/0"), Lines("a/0")

    at_once = whole.feed(b"".join(chunks)) + whole.finish()
    in_parts = b"".join(map(parts.feed, chunks)) + parts.finish()

    assert at_once.replace(b"\r", b"") == in_parts.replace(b"\r", b"")
    assert all(len(line) <= LINE_MAX + 6 for line in in_parts.split(b"\n"))
