"""Faults in why a worker died, and what is made of it."""

from __future__ import annotations

from tests.mutants.graft import Mutant

CAUSES = (
    Mutant(
        "last words of a process are not heard",
        "facts.py",
        "if words is not None and words.cause and not starved:",
        "if False:",
    ),
    Mutant(
        "who ended well died of what it said",
        "facts.py",
        "return None if worker.cause is not None or event.code == 0 else find_words(event.tail)",
        "return None if worker.cause is not None else find_words(event.tail)",
        by="tests/core/test_causes.py",
    ),
    Mutant(
        "only the last line is heard",
        "last_words.py",
        "for line in reversed(tail):",
        "for line in tail[-1:]:",
    ),
    Mutant(
        "last words hide what the kernel says",
        "facts.py",
        "words.cause and not starved:",
        "words.cause:",
        by="tests/core/test_causes.py",
    ),
    Mutant(
        "a cause has no policy of its own",
        "file/service.py",
        "return next((policy for name, policy in self.on if name == cause), self)",
        "return self",
    ),
    Mutant(
        "the parole of a cause does not count",
        "moves.py",
        "parole_at(worker.restart,",
        "parole_at(worker.policy.restart,",
        by="tests/core/test_causes.py",
    ),
)
