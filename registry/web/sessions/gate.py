"""Who reads a page: found by the session's cookie, before anything else of the request is read."""

from __future__ import annotations

import time
from collections.abc import Callable
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from registry.access.tokens import secret_digest
from registry.errors import Forbidden, RegistryError, Unauthenticated
from registry.http.paths import SIGN_IN, STATIC, area_of
from registry.web.pages import HEADERS, refusal
from registry.web.sessions.cookies import cookie_of
from registry.web.sessions.service import Sessions
from registry.web.signed_in import SignedIn

#: How long the database's answer about a session is used, in seconds: a revoked token shows nothing after that.
TRUST_S = 0.5
#: How many sessions are remembered at once.
_MOST = 10_000
_READS = ("GET", "HEAD")


class SessionGate:
    """ASGI middleware of the pages: puts `Principal` and `SignedIn` into the scope, or leads to the page for signing in.

    A change comes from a page of this origin, or not at all.
    """

    def __init__(self, app: ASGIApp, *, sessions: Sessions, clock: Callable[[], float] = time.monotonic) -> None:
        self._app, self._sessions, self._clock = app, sessions, clock
        self._known: dict[str, tuple[float, SignedIn]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or answer it."""
        if scope["type"] != "http" or not area_of(scope["path"]).wants_session or scope["path"].startswith(STATIC):
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        answer: Response | None = None
        try:
            if scope["method"] not in _READS:
                _require_own_origin(request)
            session = await self._check(request)
            scope["session"], scope["principal"] = session, session.who
        except Unauthenticated as error:
            scope["session"] = scope["principal"] = None
            if scope["path"] != SIGN_IN:
                answer = _led(request, error)
        except RegistryError as error:
            answer = refusal(request, error)
        await (self._app if answer is None else answer)(scope, receive, send)

    async def _check(self, request: Request) -> SignedIn:
        secret = cookie_of(request)
        if not secret:
            raise Unauthenticated("sign in to see this page")
        now, key = self._clock(), secret_digest(secret)
        known = self._known.get(key)
        if known is not None and now - known[0] < TRUST_S:
            return known[1]
        session = await run_in_threadpool(self._sessions.check, secret)
        if len(self._known) >= _MOST:
            self._known.clear()
        self._known[key] = (now, session)
        return session


def _led(request: Request, error: Unauthenticated) -> Response:
    """Lead a reader to the page for signing in, and back; a script and a form are told."""
    if request.method not in _READS or request.headers.get("HX-Request"):
        return refusal(request, error)
    back = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return RedirectResponse(f"{SIGN_IN}?next={quote(back, safe='')}", 303, headers=HEADERS)


def _require_own_origin(request: Request) -> None:
    """Raise Forbidden unless the browser says that a page of this origin sends the request."""
    origin, host = request.headers.get("Origin"), request.headers.get("Host", "")
    if origin is None or origin.split("://", 1)[-1] != host:
        raise Forbidden("a page of another site may change nothing here; open the registry's own page")
