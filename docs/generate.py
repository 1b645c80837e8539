"""
Bring the generated parts of the README up to date, or (--check) say whether they are.

    python docs/generate.py [--check]
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from supervisor.core.diagram import mermaid

README = Path(__file__).parent.parent / "README.md"


def main() -> int:
    """Exit status 1 when --check finds something out of date."""
    old = README.read_text()
    new = generate(old, {"states": f"```mermaid\n{mermaid().strip()}\n```"})
    if "--check" in sys.argv[1:]:
        return int(new != old)
    README.write_text(new)
    return 0


def generate(text: str, parts: Mapping[str, str]) -> str:
    """Put each part between its two markers."""
    for name, part in parts.items():
        begin, end = f"<!-- generated: {name} -->\n", f"<!-- end: {name} -->\n"
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(end)
        text = f"{before}{begin}{part}\n{end}{after}"
    return text


if __name__ == "__main__":
    sys.exit(main())
