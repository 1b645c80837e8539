"""Durations, sizes and percentages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.core.file.problems import BadValueError
from supervisor.core.file.quantities import (
    DURATION_MAX_S,
    SIZE_MAX,
    Percent,
    amount_bytes,
    duration,
    parse_amount,
    parse_cpu,
    parse_duration_s,
    parse_size,
)


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("500ms", 0.5),
        ("10s", 10.0),
        ("5m", 300.0),
        ("2h", 7200.0),
        ("1d", 86400.0),
        ("1.5s", 1.5),
        ("10", 10.0),
        ("10 s", 10.0),
        (10, 10.0),
        (0, 0.0),
        (2.5, 2.5),
        ("3650d", DURATION_MAX_S),
    ],
)
def test_a_duration_is_its_seconds(written: object, seconds: float) -> None:
    """Every unit of the contract, broken numbers, and bare numbers as seconds."""
    assert seconds == parse_duration_s(written)


@pytest.mark.parametrize(
    "written",
    [
        "",
        "s",
        "10x",
        "10 sec",
        "-1s",
        "1h30m",
        "1e3s",
        "٣s",
        "9" * 400 + "s",
        "3651d",
        None,
        True,
        [],
        {},
        -1,
        10**400,
        float("inf"),
        float("nan"),
        float("-inf"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_what_is_no_duration_is_refused(written: object) -> None:
    """Wrong units, signs, other digits, non-finite and huge numbers: all refused in the same way."""
    with pytest.raises(BadValueError):
        parse_duration_s(written)


def test_a_duration_too_short_for_its_use_is_refused() -> None:
    """An interval of nothing would never rest."""
    read = duration(0.001)

    assert read("1ms") == 0.001
    with pytest.raises(BadValueError, match="at least 1ms"):
        read(0)


@given(st.integers(0, 10**6), st.sampled_from([("ms", 0.001), ("s", 1), ("m", 60)]))
def test_durations_round_trip(count: int, unit: tuple[str, float]) -> None:
    """A whole number of any unit is that many of its seconds."""
    assert parse_duration_s(f"{count}{unit[0]}") == pytest.approx(count * unit[1])


@pytest.mark.parametrize(
    ("written", "size"),
    [
        ("1KiB", 1024),
        ("1MiB", 1024**2),
        ("20GiB", 20 * 1024**3),
        ("1TiB", 1024**4),
        ("1KB", 1000),
        ("1MB", 10**6),
        ("20GB", 20 * 10**9),
        ("1TB", 10**12),
        ("1.5GiB", 3 * 1024**3 // 2),
        ("0.1KiB", 102),
        ("512", 512),
        (512, 512),
        (SIZE_MAX, SIZE_MAX),
    ],
)
def test_a_size_is_its_bytes(written: object, size: int) -> None:
    """Every unit of the contract, broken numbers rounded down, bare numbers as bytes."""
    assert size == parse_size(written)


@pytest.mark.parametrize(
    "written",
    [
        "",
        "GiB",
        "-1GiB",
        "1.5",
        "10XB",
        "9999999999TiB",
        "50%",
        None,
        True,
        [],
        {},
        -1,
        1.5,
        10**400,
        float("inf"),
        float("nan"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_what_is_no_size_is_refused(written: object) -> None:
    """Bytes are whole numbers, and the kernel's own limit is the largest."""
    with pytest.raises(BadValueError):
        parse_size(written)


@pytest.mark.parametrize("written", ["20G", "20Gi", "20gib", "20g"])
def test_a_unit_from_elsewhere_gets_the_one_that_was_meant(written: str) -> None:
    """Docker and Kubernetes write sizes in other ways."""
    with pytest.raises(BadValueError) as refused:
        parse_size(written)

    assert refused.value.hint == "did you mean 20GiB?"


@given(st.integers(0, SIZE_MAX))
def test_sizes_round_trip(size: int) -> None:
    """A size in bytes is itself, as a number and as text; no float stands between."""
    assert size == parse_size(size) == parse_size(str(size))


@given(st.integers(0, 2**23 - 1), st.sampled_from(["KiB", "MiB", "GiB", "TiB"]))
def test_a_size_with_a_unit_is_exact(count: int, unit: str) -> None:
    """Multiples of large units do not lose a byte."""
    assert parse_size(f"{count}{unit}") == count * 1024 ** ("KMGT".index(unit[0]) + 1)


@pytest.mark.parametrize(
    ("written", "amount"), [("50%", Percent(500)), ("12.5%", Percent(125)), ("100%", Percent(1000)), ("1GiB", 2**30)]
)
def test_an_amount_is_a_size_or_a_part(written: str, amount: object) -> None:
    """Parts are kept in thousandths of the whole."""
    assert amount == parse_amount(written)


@pytest.mark.parametrize("written", ["101%", "-1%", "0.01%", "%", "1e1%", "ten%"])
def test_what_is_no_part_is_refused(written: str) -> None:
    """0 to 100 in steps of 0.1."""
    with pytest.raises(BadValueError):
        parse_amount(written)


def test_a_part_of_a_device_is_rounded_down_to_bytes() -> None:
    """A part never adds up to more than the whole; a size is what it is."""
    assert amount_bytes(Percent(333), 1001) == 333
    assert amount_bytes(7, 1001) == 7
    assert str(Percent(125)) == "12.5%"


@given(st.one_of(st.text(), st.integers(), st.floats(), st.none(), st.booleans(), st.lists(st.integers())))
def test_no_value_makes_anything_but_a_refusal(value: object) -> None:
    """Whatever stands there, it is a quantity or refused with words."""
    for parse in (parse_duration_s, parse_size, parse_amount, parse_cpu):
        try:
            parse(value)
        except BadValueError as refused:
            assert str(refused)


@pytest.mark.parametrize(
    ("written", "millis"), [(4, 4000), (0.5, 500), ("500m", 500), ("4", 4000), ("0.25", 250), (1.005, 1005), ("1m", 1)]
)
def test_cores_are_thousandths(written: object, millis: int) -> None:
    """A number, or thousandths as Kubernetes writes them."""
    assert parse_cpu(written) == millis


@pytest.mark.parametrize(
    ("written", "message"),
    [
        *((value, "expected more than nothing, got ") for value in (0, 0.0, "0m")),
        *((value, "expected a number of cores such as 4, 0.5 or 500m, got ") for value in (-1, "", "4 cores", "1M")),
        *((value, "expected a number of cores such as 4, 0.5 or 500m, got ") for value in (True, None, [1], 0.0005)),
        *((value, "expected a number of cores such as 4, 0.5 or 500m, got ") for value in (float("nan"), 1e-9, "0.5m")),
        (10**6, "expected 65536 cores at the most, got 1000000"),
    ],
)
def test_what_is_no_number_of_cores_is_refused(written: object, message: str) -> None:
    """With what was expected."""
    with pytest.raises(BadValueError) as refused:
        parse_cpu(written)

    assert str(refused.value).startswith(message)
