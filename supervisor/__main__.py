"""`python -m supervisor` and the `gpu-supervisor` command."""

from __future__ import annotations

from typing import NoReturn

from supervisor.cli.commands import cli


def main() -> NoReturn:
    """Run the command line and leave the process with its exit status."""
    cli.main()


if __name__ == "__main__":
    main()
