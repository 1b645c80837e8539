"""
Owns the user database: which numbers stand for the user and the group of a worker.

A look-up may hang (LDAP): the daemon asks in a thread and has limited patience. Sets nothing; that is for the shim.
"""

from __future__ import annotations

import asyncio
import errno
import grp
import os
import pwd
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.core.file.setup import Setup

PATIENCE_S = 10.0


class AccountError(Exception):
    """
    No such user or group, or none that we may become.

    Args:
        number: An errno; 0 where another try may help.
        key: The key of the file that is to blame: ``user`` or ``group``.
        detail: In words.
    """

    def __init__(self, number: int, key: str, detail: str) -> None:
        super().__init__(detail)
        self.errno = number
        self.key = key
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Account:
    """
    Whose process it is going to be.

    Args:
        shown: In words.
        uid: None = ours.
        gid: None = ours.
        groups: Supplementary ones, None = ours.
        env: HOME, USER and LOGNAME, where there is a user.
    """

    shown: str
    uid: int | None
    gid: int | None
    groups: tuple[int, ...] | None
    env: dict[str, str]


def find_account(user: str | None, group: str | None) -> Account:
    """
    Look up a user and a group of the file. May block for as long as the user database likes.

    Args:
        user: Name or number; None = ours.
        group: Name or number; None = the user's own.

    Raises:
        AccountError: There is none, or we may not become that.
    """
    gid = None if group is None else _find_group(group)
    if user is None:
        shown, account = f"group {group}", Account(f"group {group}", None, gid, None, {})
    else:
        shown, account = f"user {user}", _find_user(user, gid)
    return _permitted(account, "group" if user is None else "user", shown)


def _find_user(user: str, gid: int | None) -> Account:
    try:
        entry = pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
    except KeyError:
        if not user.isdecimal():
            raise AccountError(errno.ENOENT, "user", f"no such user: {user}") from None
        if gid is None:
            detail = f"user {user} is not in the user database, so its group is not known"
            raise AccountError(errno.ENOENT, "user", detail) from None
        env = {"HOME": "/", "USER": user, "LOGNAME": user}
        return Account(f"user {user}", int(user), gid, (gid,), env)
    own = entry.pw_gid if gid is None else gid
    groups = tuple(os.getgrouplist(entry.pw_name, own))
    env = {"HOME": entry.pw_dir or "/", "USER": entry.pw_name, "LOGNAME": entry.pw_name}
    return Account(f"user {user}", entry.pw_uid, own, groups, env)


def _find_group(group: str) -> int:
    if group.isdecimal():
        return int(group)
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise AccountError(errno.ENOENT, "group", f"no such group: {group}") from None


def _permitted(account: Account, key: str, shown: str) -> Account:
    """Without privileges we can only be who we are; then nothing is to be set."""
    if os.geteuid() == 0:
        return account
    if account.uid in {None, os.geteuid()} and account.gid in {None, os.getegid()}:
        return Account(shown, None, None, None, account.env)
    raise AccountError(errno.EPERM, key, f"cannot run as {shown}: the daemon does not run as root")


class Accounts:
    """Look-ups for whoever must not wait. Used inside a running event loop."""

    def __init__(self, patience_s: float = PATIENCE_S) -> None:
        self._patience_s = patience_s
        self._open: dict[tuple[str | None, str | None], asyncio.Future[Account | AccountError]] = {}

    def find(self, setup: Setup, done: Callable[[Account | AccountError], None]) -> None:
        """
        Look up the user and group of a set-up.

        Args:
            setup: With a user or a group.
            done: Called once, later, with what came of it.
        """
        key = (setup.user, setup.group)
        if key not in self._open:
            self._open[key] = self._start(key)
        self._open[key].add_done_callback(lambda future: done(future.result()))

    def _start(self, key: tuple[str | None, str | None]) -> asyncio.Future[Account | AccountError]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Account | AccountError] = loop.create_future()

        def finish(answer: Account | AccountError) -> None:
            if not future.done():
                timer.cancel()
                del self._open[key]
                future.set_result(answer)

        def work() -> None:
            try:
                answer: Account | AccountError = find_account(*key)
            except AccountError as error:
                answer = error
            except OSError as error:
                answer = AccountError(0, "user", f"cannot ask the user database: {error.strerror or error}".lower())
            try:
                loop.call_soon_threadsafe(finish, answer)
            except RuntimeError:  # The loop is closed: nobody waits any more.
                return

        words = f"the user database does not answer within {self._patience_s:g} s"
        timer = loop.call_later(self._patience_s, lambda: finish(AccountError(0, "user", words)))
        # A daemon thread, so that one that never comes back does not hold up the end of the process.
        threading.Thread(target=work, name="find-account", daemon=True).start()
        return future
