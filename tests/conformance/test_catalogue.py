"""The table of docs/conformance.md is whole, true to the tests, and up to date."""

from __future__ import annotations

import ast
from collections import Counter
from functools import cache

from tests.conformance.catalogue import CASES
from tests.conformance.page import PAGE, make_page
from tests.e2e.harness import ROOT

ASKED = {
    "A": (2, 4, 5, 6, 7, 9, 10, 11, 13, 14, 17),
    "B": (1, 4, 6, 10, 11, 14, 15, 16, 17, 18, 19, 20),
    "C": (4, 8, 9, 10, 11, 13, 14, 17, 18),
    "D": (1, 3, 4, 9, 10, 11, 12),
    "H": (1, 2, 3, 6, 7, 8, 9, 10, 11, 12),
}
"""Every case of these groups, by the numbers under which the project keeps them."""


@cache
def functions_in(file: str) -> frozenset[str]:
    tree = ast.parse((ROOT / "tests" / file).read_text())
    return frozenset(one.name for one in tree.body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef))


def test_every_case_has_a_row() -> None:
    """And one only."""
    assert {f"{group}{number:02}" for group, numbers in ASKED.items() for number in numbers} <= {
        case.id for case in CASES
    }
    assert [name for name, count in Counter(case.id for case in CASES).items() if count > 1] == []


def test_every_named_test_exists() -> None:
    missing = [
        name
        for case in CASES
        for name in case.tests
        if name.partition("::")[2] not in functions_in(name.partition("::")[0])
    ]

    assert missing == []


def test_a_case_without_a_test_says_why() -> None:
    assert [case.id for case in CASES if not case.tests and not case.but] == []


def test_every_test_of_a_case_is_in_a_row() -> None:
    """What is tried against other supervisors is also told."""
    files = [path for path in (ROOT / "tests/conformance").glob("test_*.py") if path.name != "test_catalogue.py"]
    written = {
        f"conformance/{path.name}::{name}" for path in files for name in functions_in(f"conformance/{path.name}")
    }

    tests = {name for name in written if "::test_" in name}
    assert tests - {name for case in CASES for name in case.tests} == set()


def test_the_page_is_up_to_date() -> None:
    """`make docs` would change nothing."""
    assert PAGE.read_text() == make_page()
