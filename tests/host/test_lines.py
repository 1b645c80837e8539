import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.host.lines import LINE_MAX, Block, Lines, Ring, Whole, folded


def fed(lines: Lines, text: bytes) -> bytes:
    return b"".join(lines.feed(text))


def finished(lines: Lines) -> bytes:
    return b"".join(lines.finish())


def test_lines_get_the_workers_name_in_front() -> None:
    """Each line carries its worker, empty ones too."""
    assert fed(Lines("llm/0"), b"one\n\ntwo\n") == b"llm/0 | one\nllm/0 | \nllm/0 | two\n"


def test_partial_line_waits_for_its_end() -> None:
    """Half a line is not written before its other half."""
    lines = Lines("llm/0")

    assert fed(lines, b"load") == b""
    assert fed(lines, b"ing\nre") == b"llm/0 | loading\n"
    assert finished(lines) == b"llm/0 | re\n"
    assert finished(lines) == b""


def test_finished_partial_line_is_not_followed_by_an_empty_one() -> None:
    """The line feed that comes after the flush ends nothing any more."""
    lines = Lines("llm/0")
    fed(lines, b"half")
    finished(lines)

    assert fed(lines, b"\nnext\n") == b"llm/0 | next\n"


def test_carriage_returns_go_at_line_ends_only() -> None:
    """Lines of terminals lose their carriage return, progress bars keep theirs inside."""
    lines = Lines("a/0")

    assert fed(lines, b"one\r\n1%\r2%\r\r\n") == b"a/0 | one\na/0 | 1%\r2%\n"
    assert fed(lines, b"three\r") == b""
    assert fed(lines, b"\n") == b"a/0 | three\n"


@pytest.mark.parametrize("extra", [b"", b"x", b"x" * LINE_MAX, b"x" * LINE_MAX * 3 + b"yz"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("step", [1000, LINE_MAX, LINE_MAX + 1, 1 << 20])
def test_long_line_comes_in_bounded_pieces(extra: bytes, end: bytes, step: int) -> None:
    """A line beyond the limit is cut, however it arrives, and loses nothing."""
    line = b"a" * LINE_MAX + extra
    text = line + end + b"next\n"
    lines = Lines("a/0")

    got = b"".join(fed(lines, text[start : start + step]) for start in range(0, len(text), step))

    *pieces, following = [piece.removeprefix(b"a/0 | ") for piece in got.splitlines()]
    assert line == b"".join(pieces)
    assert -(-len(line) // LINE_MAX) == len(pieces)
    assert max(map(len, pieces)) <= LINE_MAX
    assert following == b"next"


def test_long_line_is_cut_between_characters() -> None:
    """No piece ends within a character of several bytes."""
    text = "x" + "å€😀" * 10_000
    lines = Lines("a/0")

    got = fed(lines, text.encode()) + finished(lines)

    assert text == "".join(piece.removeprefix("a/0 | ") for piece in got.decode().splitlines())


def block(first: int, text: bytes, incarnation: int = 1) -> Block:
    return Block(first, incarnation, 0.0, text)


def lines_of(ring: Ring) -> list[str]:
    return [line for one in ring.blocks() for _, line in one.lines()]


def test_ring_keeps_the_last_thousand_lines_of_who_says_one_at_a_time() -> None:
    """What they weigh beside their bytes is bounded too."""
    ring = Ring()
    for number in range(5000):
        ring.add(block(number, b"%d\n" % number))

    assert lines_of(ring) == [str(number) for number in range(4000, 5000)]


def test_ring_is_bounded_in_bytes() -> None:
    """However long lines are, and however large the block is in which they come."""
    ring = Ring(limit=1000)
    ring.add(block(0, b"x" * 600 + b"\n"))
    ring.add(block(1, b"y" * 600 + b"\n"))
    assert lines_of(ring) == ["y" * 600]

    ring.add(block(2, b"".join(b"%03d\n" % number for number in range(500))))
    kept = lines_of(ring)
    assert kept == [f"{number:03}" for number in range(500 - len(kept), 500)]
    assert 900 < 4 * len(kept) <= 1000
    assert [number for one in ring.blocks() for number, _ in one.lines()][-1] == 2 + 499 * 4

    ring.add(block(502, b"z" * 5000 + b"\n"))
    assert lines_of(ring) == ["z" * 999]


def test_tail_is_that_of_one_process() -> None:
    """Its last lines, cut, with invalid UTF-8 replaced; whatever others said in between."""
    ring = Ring()
    ring.add(block(0, b"old\n", incarnation=1))
    ring.add(block(1, b"a\nb\nc\n", incarnation=2))
    ring.add(block(4, b"orphan\n", incarnation=1))
    ring.add(block(5, b"yyyyyyyyyyyyyyyy\n\xffbad\n", incarnation=2))

    assert ring.tail(2, 3, 10) == ("c", "yyyyyyyyyy", "\ufffdbad")
    assert ring.tail(2, 20, 10) == ("a", "b", "c", "yyyyyyyyyy", "\ufffdbad")
    assert ring.tail(1, 20, 10) == ("old", "orphan")


@pytest.mark.parametrize(
    ("line", "shown"),
    [(b"plain", b"plain"), (b"dos\r", b"dos"), (b"1%\r50%\r100%", b"100%"), (b"99%\r100%\r\r", b"100%"), (b"\r", b"")],
)
def test_folded_line_is_what_a_terminal_shows_in_the_end(line: bytes, shown: bytes) -> None:
    """A progress bar has one state, its last."""
    assert folded(line) == shown


def test_whole_holds_back_what_is_not_complete() -> None:
    """Up to a limit; nothing is changed or lost."""
    whole = Whole(limit=10)

    assert [whole.feed(text) for text in (b"a", b"b\nc", b"\n", b"0123456789", b"x")] == [
        b"",
        b"ab\n",
        b"c\n",
        b"",
        b"0123456789x",
    ]
    whole.feed(b"rest")
    assert (whole.finish(), whole.finish()) == (b"rest", b"")


@given(st.lists(st.binary(max_size=30) | st.sampled_from([b"\n", b"\r\n", b"z" * LINE_MAX])))
def test_lines_do_not_depend_on_how_the_text_arrives(chunks: list[bytes]) -> None:
    """Any cut of the text into reads gives the same lines as one read, up to where long ones are cut."""
    whole, parts = Lines("a/0"), Lines("a/0")

    at_once = fed(whole, b"".join(chunks)) + finished(whole)
    in_parts = b"".join(fed(parts, chunk) for chunk in chunks) + finished(parts)

    assert at_once.replace(b"\r", b"") == in_parts.replace(b"\r", b"")
    assert all(len(line) <= LINE_MAX + 6 for line in in_parts.split(b"\n"))
