"""
The web page: one file that asks the API for everything it shows.

It may run its own script and style, told by their digests, ask the server it came from, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from pathlib import Path

from aiohttp import hdrs, web

FILE = Path(__file__).with_name("page.html")


@cache
def _read_page() -> tuple[bytes, str]:
    """Its bytes, and what a browser is to let it do."""
    page = FILE.read_bytes()
    rules = [
        "default-src 'none'",
        f"script-src {_digest(page, b'script')}",
        f"style-src {_digest(page, b'style')}",
        "connect-src 'self'",
        "img-src data:",  # Its icon.
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
    return page, "; ".join(rules)


def answer_page() -> web.Response:
    """The page, and the rules for it."""
    page, rules = _read_page()
    headers = {"Content-Security-Policy": rules, hdrs.CONTENT_TYPE: "text/html; charset=utf-8"}
    return web.Response(body=page, headers=headers)


def _digest(page: bytes, tag: bytes) -> str:
    (inside,) = re.findall(b"<%s>(.*?)</%s>" % (tag, tag), page, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(inside).digest()).decode()}'"
