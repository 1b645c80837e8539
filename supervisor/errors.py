"""What can go wrong, sorted by whose fault it is. Knows nothing of how it is shown."""


class CannotError(Exception):
    """
    A thing that a person asked for and that cannot be done.

    Shown as ``cannot THING: CAUSE`` with the hint on a line of its own; never as a traceback.

    Args:
        thing: What was asked, as an infinitive: ``read demo.yaml``.
        cause: Why not, lower case, no full stop.
        hint: What the person can do about it, or empty.
        exit_code: Exit status of the command line for it; CONTRACT section 3.
    """

    def __init__(self, thing: str, cause: str, *, hint: str = "", exit_code: int = 1) -> None:
        super().__init__(f"cannot {thing}: {cause}")
        self.hint = hint
        self.exit_code = exit_code


class InvariantBrokenError(Exception):
    """
    Our own bug: the core was asked something that its tables call impossible.

    Raised in tests and in the simulator; the daemon logs it with the worker's story, commits nothing and goes on.
    """


class ProblemsError(Exception):
    """
    Input that cannot be used, with everything that is wrong with it.

    Args:
        lines: Whole lines for a person, one problem each.
    """

    def __init__(self, lines: tuple[str, ...]) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines
