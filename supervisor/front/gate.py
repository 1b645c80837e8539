"""
Who may see and do what over TCP: names under which we are asked, where pages come from that ask, and the token.

Over the unix socket there is no gate: who may open its file may do everything.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from aiohttp import hdrs, web

from supervisor.front.problem import RefusedError
from supervisor.front.routes import Route
from supervisor.front.verdict import Json

LOCAL = "localhost"

HEADERS: Mapping[str, str] = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""Of every answer: nothing of ours is kept, framed, or used by another site's page. There is no CORS."""


@dataclass(frozen=True, slots=True)
class Gate:
    """
    Of one listening address.

    Args:
        host: The IP address that is bound.
        names: Of this machine, beside localhost.
        digest: SHA-256 of the token; None: there is none, and whatever needs it is not to be had.
    """

    host: str
    names: frozenset[str] = frozenset()
    digest: bytes | None = field(default=None, repr=False)

    def admit(self, request: web.Request) -> None:
        """
        Let in who asks us under a name of ours.

        A page of another site can make a name of its own point here (DNS rebinding), and is then told apart by nothing
        else. Browsers alone send Origin, and they do so with every change.

        Raises:
            RefusedError: Somebody else was meant, or the page of somebody else asks.
        """
        hosts = request.headers.getall(hdrs.HOST, [])
        if len(hosts) != 1 or "://" in request.raw_path.partition("?")[0]:
            raise RefusedError(400, "expected one Host header and a path")
        if not self._is_ours(hosts[0]):
            words = f"nobody here is called {hosts[0][:100]!r}"
            raise RefusedError(
                421, words, hint=f"ask http://{LOCAL}, the address that is bound, or this machine's name"
            )
        if request.method in {"GET", "HEAD"}:
            return
        origin = request.headers.get(hdrs.ORIGIN)
        if origin is not None and urlsplit(origin).netloc.lower() != hosts[0].lower():
            raise RefusedError(403, "the page of another site asks for a change")
        if request.headers.get("Sec-Fetch-Site", "same-origin") not in {"same-origin", "none"}:
            raise RefusedError(403, "the page of another site asks for a change")

    def knows(self, request: web.Request, route: Route) -> bool:
        """
        Whether a request comes with the token, which it need not for everything.

        Raises:
            RefusedError: It needs one and has none, or has a wrong one.
        """
        given = request.headers.getall(hdrs.AUTHORIZATION, [])
        if not given and route.is_open:
            return False
        if self.digest is None:
            words = f"{request.method} {route.path} needs a token over TCP, and the file names none"
            raise RefusedError(403, words, hint="set daemon.http_token_file, or use the control socket")
        if not given:
            words = f"{request.method} {route.path} needs the token of daemon.http_token_file"
            raise RefusedError(401, words, hint=_HINT, headers={hdrs.WWW_AUTHENTICATE: _CHALLENGE})
        scheme, _, token = given[0].partition(" ")
        digest = hashlib.sha256(token.strip().encode(errors="surrogateescape")).digest()
        # Of digests not even the time that a comparison takes tells anything.
        is_right = hmac.compare_digest(digest, self.digest)
        if len(given) > 1 or scheme.lower() != "bearer" or not is_right:
            challenge = f'{_CHALLENGE}, error="invalid_token"'
            raise RefusedError(401, "that is not the token", hint=_HINT, headers={hdrs.WWW_AUTHENTICATE: challenge})
        return True

    def _is_ours(self, written: str) -> bool:
        host = _host_of(written)
        if host is None:
            return False
        if host == LOCAL or host.endswith(f".{LOCAL}") or host in self.names:
            return True
        try:
            address = ip_address(host)
        except ValueError:
            return False
        bound = ip_address(self.host)
        # An address cannot be rebound; which of its own a machine is asked at behind a port mapping it does not know.
        return address.is_loopback or address == bound or bound.is_unspecified


def hide(status: Json) -> Json:
    """A status as anybody may see it: without the workers' variables and what they wrote last."""
    services = [{**one, "workers": [_hide_worker(worker) for worker in one["workers"]]} for one in status["services"]]
    return {**status, "services": services}


def _hide_worker(worker: Json) -> Json:
    last: Any = worker["last_exit"]
    return {**worker, "env": None, "last_exit": last and {**last, "tail": None}}


def _host_of(written: str) -> str | None:
    """The host of ``HOST[:PORT]``; None if it is none."""
    if "@" in written or "/" in written:
        return None
    try:
        parts = urlsplit(f"//{written}")
        _ = parts.port
    except ValueError:
        return None
    return (parts.hostname or "").rstrip(".") or None


_CHALLENGE = 'Bearer realm="gpu-supervisor"'
_HINT = "Authorization: Bearer TOKEN"
