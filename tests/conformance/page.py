"""
docs/conformance.md, made of the catalogue and of what `make conformance` found out about supervisord.

    python -m tests.conformance.page
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from tests.conformance.catalogue import CASES, GROUPS, Case
from tests.e2e.harness import ROOT

PAGE = ROOT / "docs" / "conformance.md"
RESULTS = Path(__file__).with_name("supervisord.json")

HEAD = """\
# Conformance

What a supervisor of servers has to get right, case by case, and which test shows it.
The tests use real processes and know nothing of what is inside: they start a supervisor with scripted workers, kill, stop and starve them, and look at what happens.
Those of `tests/conformance` are written against a few words (start, stop, what do you see, how many ends have you recorded), so that the same test runs against any supervisor: `make test` runs them against gpu-supervisor, `make conformance` also against supervisord {version}, which it installs in an environment of its own, and writes this page.

**holds**: what the case expects happened, and at the end of the test the supervisor ended when it was asked to, nothing of its workers was left, and no worker had been started beside an earlier process of its own.
**fails**: it did not, in the words of the test.
A dash: the supervisor has nothing of the kind, or the case was not tried with it.
"""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one test: ``holds``, ``fails`` or ``lacks``, and in which words."""

    verdict: str
    words: str


def main() -> None:
    PAGE.write_text(make_page())


def make_page() -> str:
    """The whole page."""
    recorded = json.loads(RESULTS.read_text())
    results = {name: Result(**one) for name, one in recorded["tests"].items()}
    parts = [HEAD.format(version=recorded["version"])]
    for group, title in GROUPS.items():
        head = f"\n## {title}\n\n| case | what happens, and what is expected | gpu-supervisor |"
        head += f" supervisord {recorded['version']} | shown by |\n|---|---|---|---|---|\n"
        parts.append(head + "".join(_row(case, results) for case in CASES if case.group == group))
    return "".join(parts)


def _row(case: Case, results: Mapping[str, Result]) -> str:
    cells = (case.id, case.what, _ours(case), _theirs(case, results), "<br>".join(map(_link, case.tests)) or "-")
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |\n"


def _ours(case: Case) -> str:
    if not case.tests:
        return f"- {case.but}"
    return f"holds; but: {case.but}" if case.but else "holds"


def _theirs(case: Case, results: Mapping[str, Result]) -> str:
    found = [results[name] for name in case.tests if name in results]
    for verdict, before in (("fails", "**fails**: "), ("holds", "holds"), ("lacks", "- ")):
        words = _unique(one.words for one in found if one.verdict == verdict)
        if any(one.verdict == verdict for one in found):
            return before + "; ".join(words)
    return "- not tried"


def _unique(words: Iterator[str]) -> list[str]:
    return list(dict.fromkeys(filter(None, words)))


def _link(test: str) -> str:
    file, _, name = test.partition("::")
    return f"[{file.removesuffix('.py')}](../tests/{file}) `{name}`"


def read_results(report: Path) -> dict[str, Any]:
    """What pytest's JUnit report says of each test; of one with parameters what is worst."""
    found: dict[str, Result] = {}
    for one in ET.parse(report).getroot().iter("testcase"):
        file = one.attrib["classname"].removeprefix("tests.").replace(".", "/")
        name = f"{file}.py::{one.attrib['name'].partition('[')[0]}"
        new = _result(one)
        old = found.get(name, new)
        found[name] = min((old, new), key=lambda result: ("fails", "lacks", "holds").index(result.verdict))
    return {name: {"verdict": one.verdict, "words": one.words} for name, one in sorted(found.items())}


def _result(test: Any) -> Result:
    # The case itself first, then what was found at its end.
    for tag in ("failure", "error"):
        if (child := test.find(tag)) is not None:
            return Result("fails", _first_line(child.attrib["message"]))
    if (child := test.find("skipped")) is not None:
        return Result("lacks", child.attrib["message"])
    return Result("holds", "")


def _first_line(message: str) -> str:
    line = message.replace('failed on teardown with "', "").splitlines()[0]
    return line.removeprefix("AssertionError: ").rstrip('"')


if __name__ == "__main__":
    main()
