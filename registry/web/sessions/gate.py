"""Who reads a page: found by the session's cookie, before anything else of the request is read."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from registry.access.caller_limits import CallerLimits
from registry.access.secret_digests import secret_digest
from registry.errors import Forbidden, RateLimited, RegistryError, Unauthenticated
from registry.http.paths import CODE, SIGN_IN, SIGN_OUT, STATIC, area_of
from registry.http.rights import note_forbidden
from registry.web.pages import HEADERS, refusal
from registry.web.sessions.service import Sessions
from registry.web.sessions.site import Site
from registry.web.signed_in import SignedIn

#: How long the database's answer about a session is used, in seconds: a revoked token shows nothing after that.
TRUST_S = 0.5
#: How many sessions are remembered at once.
_MOST = 10_000
_READS = ("GET", "HEAD")
#: What a stream says, to which a browser comes back after its session has ended: see `registry.web.jobs.stream`.
_STREAM, _ENDED = "text/event-stream", "event: end\ndata:\n\n"
#: What is there without a session.
_OPEN = (SIGN_IN, CODE)


class SessionGate:
    """ASGI middleware of the pages: puts `Principal` and `SignedIn` into the scope, or leads to the page for signing in.

    A change comes from a page of this origin, or not at all.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        sessions: Sessions,
        site: Site,
        limits: CallerLimits,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app, self._sessions, self._site, self._limits, self._clock = app, sessions, site, limits, clock
        self._known: dict[str, tuple[float, SignedIn]] = {}
        sessions.listen(self._forget)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or answer it."""
        if scope["type"] != "http" or not area_of(scope["path"]).wants_session or scope["path"].startswith(STATIC):
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        scope["session"] = scope["principal"] = None
        answer: Response | None = None
        try:
            if scope["method"] not in _READS:
                self._site.require_own_origin(request)
            await self._let_in(request)
        except Unauthenticated as error:
            if scope["path"] not in _OPEN:
                answer = self._led(request, error)
        except RegistryError as error:
            if isinstance(error, Forbidden):
                note_forbidden(scope, error)
            answer = refusal(request, error)
        try:
            await (self._app if answer is None else answer)(scope, receive, send)
        finally:
            if scope["path"] == SIGN_OUT and scope["session"] is not None:
                self._known.pop(secret_digest(self._site.cookie_of(request)), None)

    async def _let_in(self, request: Request) -> None:
        secret = self._site.cookie_of(request)
        if not secret:
            raise Unauthenticated("sign in to see this page")
        session = await self._check(request, secret)
        self._limits.count(session.who)
        request.scope["session"], request.scope["principal"] = session, session.who

    async def _check(self, request: Request, secret: str) -> SignedIn:
        now, key = self._clock(), secret_digest(secret)
        known = self._known.get(key)
        if known is not None and now - known[0] < TRUST_S:
            return known[1]
        try:
            # Sessions end every day, and browsers go on sending them: that is nothing to be told about.
            session = await self._limits.look_up(request.scope.get("client"), secret, self._sessions.check, notes=False)
        except RateLimited:
            raise Unauthenticated("the session has ended; sign in again") from None
        if len(self._known) >= _MOST:
            self._known.clear()
        self._known[key] = (now, session)
        return session

    def _forget(self, digests: Collection[str]) -> None:
        for key in [key for key, (_, session) in self._known.items() if session.digest in digests]:
            del self._known[key]

    def _led(self, request: Request, error: Unauthenticated) -> Response:
        """Lead a reader to the page for signing in, and back; a script, a stream and a form are told."""
        if _STREAM in request.headers.get("Accept", ""):
            # A browser calls any other answer a fault of the page, and asks no more.
            return Response(_ENDED, headers=HEADERS, media_type=_STREAM)
        if request.method not in _READS or request.headers.get("HX-Request"):
            answer = refusal(request, error)
        else:
            back = request.url.path + (f"?{request.url.query}" if request.url.query else "")
            answer = RedirectResponse(f"{SIGN_IN}?next={quote(back, safe='')}", 303, headers=HEADERS)
        if request.headers.get("Cookie"):
            self._site.take(request, answer)
        return answer
