"""Signing in, by a token or a code, and out."""

from __future__ import annotations

import re
from functools import partial
from typing import Annotated

from fastapi import Query, Request
from fastapi.responses import RedirectResponse, Response
from starlette.concurrency import run_in_threadpool

from registry.access.caller_limits import CallerLimits
from registry.errors import RegistryError, Unauthenticated
from registry.http.paths import CODE, PAGES, SIGN_IN, SIGN_OUT
from registry.http.routes import service_of
from registry.web.pages import HEADERS, moved, open_pages, page, pages, read_form, refusal
from registry.web.sessions.service import Sessions
from registry.web.sessions.site import Site

#: Signing in has no session yet, and so no CSRF token: the gate asks for this origin.
entrance = open_pages()
router = pages()

_FIRST = f"{PAGES}adapters"
#: A page of ours: no other host, no control characters, no way up, no empty part.
_OWN = re.compile(rf"(?![^?]*(?://|/\.|%2[ef]|%5c|\\)){PAGES}[!-~]+", re.IGNORECASE)
#: What browsers say of an address that was typed, or opened by another program.
_BY_HAND = "none"


@entrance.get(SIGN_IN)
async def show_sign_in(
    request: Request, back: Annotated[str, Query(alias="next", max_length=4000)] = _FIRST
) -> Response:
    """Ask for a token."""
    return _form(request, back=_own(back))


@entrance.post(SIGN_IN)
async def sign_in(request: Request) -> Response:
    """Trade a token for a session."""
    back = _FIRST
    try:
        form = await read_form(request)
        back = _own(form.get("next", _FIRST))
        token = form.get("token", "").strip()
        begin = partial(service_of(request, Sessions).begin, before=_before(request))
        secret = await _traded(request, token, begin)
    except RegistryError as error:
        answer = _form(request, back=back, status=error.status, message=error.message)
        answer.headers.update(_but_bearer(error))
        return answer
    return _entered(request, back, secret)


@entrance.get(CODE)
async def show_code(request: Request, code: Annotated[str, Query(max_length=100)] = "") -> Response:
    """Ask whether to sign in by a code. Nothing has happened yet: programs that preview addresses ask for this page."""
    by_hand = request.headers.get("Sec-Fetch-Site") == _BY_HAND
    return page(request, "sign_in_by_code.html", code=code, by_hand=by_hand)


@entrance.post(CODE)
async def sign_in_by_code(request: Request) -> Response:
    """Trade a code for a session."""
    try:
        form = await read_form(request)
        begin = partial(service_of(request, Sessions).begin_by_code, before=_before(request))
        secret = await _traded(request, form.get("code", ""), begin)
    except RegistryError as error:
        return refusal(request, error)
    return _entered(request, _FIRST, secret)


@router.post(SIGN_OUT)
async def sign_out(request: Request) -> Response:
    """End the session."""
    site = service_of(request, Site)
    await run_in_threadpool(service_of(request, Sessions).end, site.cookie_of(request))
    answer = moved(SIGN_IN)
    site.take(request, answer)
    return answer


async def _traded(request: Request, secret: str, begin: partial[str]) -> str:
    return await service_of(request, CallerLimits).look_up(request.scope.get("client"), secret, begin)


def _before(request: Request) -> str:
    """Return the session that the browser had until now."""
    try:
        return service_of(request, Site).cookie_of(request)
    except Unauthenticated:
        return ""


def _form(request: Request, *, back: str, status: int = 200, message: str | None = None) -> Response:
    sessions = service_of(request, Sessions)
    return page(
        request,
        "sign_in.html",
        status=status,
        back=back,
        message=message,
        wants_token=sessions.wants_token,
        wants_code=sessions.wants_code,
    )


def _entered(request: Request, back: str, secret: str) -> Response:
    answer = RedirectResponse(back, 303, headers=HEADERS)
    service_of(request, Site).give(request, answer, secret)
    return answer


def _but_bearer(error: RegistryError) -> dict[str, str]:
    return {name: value for name, value in error.headers.items() if name != "WWW-Authenticate"}


def _own(back: str) -> str:
    """Return where to go after signing in: a page of ours, whatever was asked for.

    >>> _own("/ui/jobs?state=running"), _own("//evil.example"), _own("/ui/..//evil.example")
    ('/ui/jobs?state=running', '/ui/adapters', '/ui/adapters')
    """
    return (
        back
        if _OWN.fullmatch(back) and back.startswith(PAGES) and not back.startswith((SIGN_IN, CODE, SIGN_OUT))
        else _FIRST
    )
