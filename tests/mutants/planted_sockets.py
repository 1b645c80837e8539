"""Faults in the sockets that workers are handed."""

from __future__ import annotations

from tests.mutants.graft import Mutant

_TESTS = "tests/core/test_sockets.py"

SOCKETS = (
    Mutant(
        "a start without its sockets",
        "admission.py",
        "        elif (wait := sockets.wait_of(turn, worker)) is not None:\n",
        "        elif (wait := sockets.wait_of(turn, worker)) is not None and not worker.starts:\n",
    ),
    Mutant(
        "a socket closed that an old process has",
        "sockets.py",
        "    left = fleet.bound - wanted\n",
        "    left = fleet.bound - meant\n",
    ),
    Mutant(
        "the socket of one without a place closed",
        "sockets.py",
        "worker.target.wanted.recipe.listen if worker.target else ()",
        "worker.target.wanted.recipe.listen if worker.target and worker.target.launch else ()",
    ),
    Mutant(
        "sockets open for nobody",
        "sockets.py",
        "    if left:\n",
        "    if left and not meant:\n",
    ),
    Mutant(
        "an address asked for twice",
        "sockets.py",
        "fleet.bound - fleet.binding - later",
        "fleet.bound - later",
    ),
    Mutant(
        "a refused address asked for all the time",
        "sockets.py",
        "fleet.bound - fleet.binding - later",
        "fleet.bound - fleet.binding",
    ),
    Mutant(
        "a refused address never tried again",
        "sockets.py",
        "None if is_asked else refusal.retry_at",
        "None",
        by="tests/core/test_sockets.py",
    ),
    Mutant(
        "an address closed to which somebody may go back",
        "sockets.py",
        "for one in fleet.tried.values() if one.was for socket",
        "for one in () for socket",
        by=_TESTS,
    ),
    Mutant(
        "an address open to which nobody may go back any more",
        "sockets.py",
        " and turn.fleet.tried is turn.before.tried:\n",
        ":\n",
        by=_TESTS,
    ),
    Mutant(
        "told of its sockets in another order",
        "environment.py",
        '":".join(socket.name for socket in sockets)',
        '":".join(sorted(socket.name for socket in sockets))',
    ),
    Mutant(
        "a roll-out waits for ever for an address that somebody else has",
        "rollout.py",
        "    if (why := sockets.refusal_for(turn.fleet, new)) is not None:\n",
        "    if why := None:\n",
        by=_TESTS,
    ),
    Mutant(
        "a reload does not try a refused address again",
        "reload.py",
        "    sockets.retry(turn)\n",
        "",
        by=_TESTS,
    ),
    Mutant(
        "a reload waits for ever for who has no socket",
        "outcome.py",
        "        and not _lacks_sockets(fleet, worker)\n",
        "",
        by=_TESTS,
    ),
    Mutant(
        "every address is another one",
        "file/listen.py",
        "return self.host == other.host or self._covers(other) or other._covers(self)",
        "return self.host == other.host",
        by="tests/core/test_listen.py",
    ),
    Mutant(
        "who serves by now goes down as if it did not",
        "rollout.py",
        "    _keep_who_serves(turn, service)\n",
        "",
        by=_TESTS,
    ),
    Mutant(
        "who cannot go back goes down for a refused address",
        "revision.py",
        "attempt.was or earlier(turn.workers.get(one))",
        "attempt.was",
        by=_TESTS,
    ),
    Mutant(
        "who goes back to what it runs is planned elsewhere",
        "preview.py",
        "            placement = worker.held\n",
        "            pass\n",
        by=_TESTS,
    ),
    Mutant(
        "a restart takes down for an address that is not there",
        "rollout.py",
        " or sockets.is_missing(turn.fleet, one) for one in running",
        " for one in running",
        by=_TESTS,
    ),
    Mutant(
        "one that makes room for another service goes before its own address is there",
        "rollout.py",
        "[one for one in chosen if not sockets.is_missing(turn.fleet, turn.workers[one])]",
        "chosen",
        by=_TESTS,
    ),
)
