"""
Bring the generated parts of these pages up to date, or (--check) say whether they are.

    python docs/generate.py [--check]
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from supervisor.core.diagram import mermaid
from supervisor.core.schema import make_schema

DOCS = Path(__file__).parent
DESIGN = DOCS / "design.md"
REFERENCE = DOCS / "service-file.md"

HEAD = """\
# The service file

Every key, generated from what reads it (`make docs`).
What goes together, and what a worker finds in its environment, is said in the [reference](reference.md).
`gpu-supervisor schema` prints the same for editors; `gpu-supervisor check FILE` says what is wrong with a file.

Durations are written `500ms 10s 5m 2h 1d`, bare numbers are seconds.
Sizes are written `KiB MiB GiB TiB KB MB GB TB`, bare numbers are bytes.
Keys that start with `x-` are yours.
"""


def main() -> int:
    """Exit status 1 when --check finds something out of date."""
    design = DESIGN.read_text()
    new = {
        DESIGN: generate(design, {"states": f"```mermaid\n{mermaid().strip()}\n```"}),
        REFERENCE: describe(make_schema()),
    }
    if "--check" in sys.argv[1:]:
        return int(any(not path.exists() or path.read_text() != text for path, text in new.items()))
    for path, text in new.items():
        path.write_text(text)
    return 0


def generate(text: str, parts: Mapping[str, str]) -> str:
    """Put each part between its two markers."""
    for name, part in parts.items():
        begin, end = f"<!-- generated: {name} -->\n", f"<!-- end: {name} -->\n"
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(end)
        text = f"{before}{begin}{part}\n{end}{after}"
    return text


def describe(schema: Mapping[str, Any]) -> str:
    """The schema as a page: a table for the file, and one for each map in it."""
    sections = [("The file", schema), *((f"`{name}`", one) for name, one in schema["$defs"].items())]
    return HEAD + "".join(f"\n## {title}\n\n{_table(one)}" for title, one in sections if "properties" in one)


def _table(section: Mapping[str, Any]) -> str:
    rows = [
        f"| `{key}` | {words.get('description', '')} | {_default(words)} |\n"
        for key, words in section["properties"].items()
    ]
    return "| key | meaning | default |\n|---|---|---|\n" + "".join(rows).replace("||", "\\|\\|")


def _default(words: Mapping[str, Any]) -> str:
    default = words.get("default")
    return "" if default is None else f"`{default}`"


if __name__ == "__main__":
    sys.exit(main())
