"""`evolve`: the next version of a frozen value. Knows nothing of any value in particular."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # The same contract, which type checkers know.
    from dataclasses import replace as evolve
else:

    def evolve(value, /, **changes):  # noqa: ANN001, ANN003, ANN201 - Typed above.
        """
        A copy of a frozen dataclass, with some fields changed.

        `dataclasses.replace` asks every field for its definition and runs the constructor: twenty times slower, and
        a restart makes a dozen of these. Only for classes without slots and without a `__post_init__`.
        """
        new = object.__new__(type(value))
        new.__dict__.update(value.__dict__)
        new.__dict__.update(changes)
        return new


__all__ = ["evolve"]
