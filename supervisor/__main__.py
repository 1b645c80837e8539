"""`python -m supervisor` and the `gpu-supervisor` command."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

COMPLETE_VARIABLE = "_GPU_SUPERVISOR_COMPLETE"


def main() -> NoReturn:
    """Run the command line and leave the process with its exit status."""
    if COMPLETE_VARIABLE not in os.environ:
        from supervisor.cli.quick import answer  # noqa: PLC0415 - A shell that completes has no use for it.

        if (status := answer(sys.argv[1:])) is not None:
            sys.exit(status)
    from supervisor.cli.commands import cli  # noqa: PLC0415 - See `quick`.

    cli.main()


if __name__ == "__main__":
    main()
