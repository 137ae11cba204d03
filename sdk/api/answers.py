"""Checks on every answer of a registry, over HTTP or in process: the server's version, and errors."""

from __future__ import annotations

import json
import re
from typing import NoReturn

from sdk.errors import Incompatible, Unavailable, raise_for
from sdk.version import VERSION as VERSION

VERSION_HEADER = "X-Adapterctl-Version"


def check_version(server: str | None, url: str) -> None:
    """Raise Incompatible if the server is more than one minor version away."""
    ours, theirs = _minor(VERSION), _minor(server or "")
    if ours is None or theirs is None:
        return
    if ours[0] != theirs[0] or abs(ours[1] - theirs[1]) > 1:
        behind = "this client" if ours < theirs else "the server"
        raise Incompatible(f"the registry at {url} is version {server}, this client is {VERSION}; upgrade {behind}")


def _minor(text: str) -> tuple[int, int] | None:
    match = re.match(r"(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else None


def require_json(content: bytes, content_type: str | None, url: str) -> None:
    """Raise Unavailable for a successful answer that no registry would send."""
    if content and not (content_type or "").startswith("application/json"):
        raise Unavailable(f"{url} does not answer like a registry; check ADAPTERCTL_URL")


def raise_error(status: int, content: bytes, url: str) -> NoReturn:
    """Raise the error that an unsuccessful answer represents."""
    try:
        error = json.loads(content)["error"]
        code, message, param = error["code"], error["message"], error.get("param")
        if not isinstance(code, str) or not isinstance(message, str) or not isinstance(param, str | None):
            raise TypeError
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        if status in (502, 503, 504):
            raise Unavailable(f"the registry at {url} is not ready (HTTP {status}); try again shortly") from None
        raise Unavailable(f"{url} answers HTTP {status} and not like a registry; check ADAPTERCTL_URL") from None
    raise_for(code, message, param)
