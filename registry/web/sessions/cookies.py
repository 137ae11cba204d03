"""The session's cookie: `__Host-` where TLS protects it, a name of its own for each port on loopback."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from registry.http.paths import PAGES

_NAME = "adapterctl_session"


def cookie_of(request: Request) -> str:
    """Return the value of the session's cookie; "" without one."""
    return request.cookies.get(_name_of(request), "")


def give(request: Request, response: Response, secret: str) -> None:
    """Let a browser keep a session."""
    response.set_cookie(
        _name_of(request), secret, path=_path(request), secure=_secure(request), httponly=True, samesite="lax"
    )


def take(request: Request, response: Response) -> None:
    """Let a browser forget its session."""
    response.delete_cookie(
        _name_of(request), path=_path(request), secure=_secure(request), httponly=True, samesite="lax"
    )


def _secure(request: Request) -> bool:
    return request.url.scheme == "https"


def _name_of(request: Request) -> str:
    # A browser sends cookies of one host to all its ports.
    return f"__Host-{_NAME}" if _secure(request) else f"{_NAME}_{request.url.port or 80}"


def _path(request: Request) -> str:
    # What `__Host-` asks for; the gate reads the cookie for pages alone.
    return "/" if _secure(request) else PAGES
