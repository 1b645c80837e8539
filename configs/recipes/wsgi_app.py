"""A WSGI program for the recipe of gunicorn: the place of a model, and what the supervisor asks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any


def app(_environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Who answers, and with which GPU."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{os.environ.get('WORKER', '')} {os.environ.get('CUDA_VISIBLE_DEVICES', '')}\n".encode()]
