"""Signing in and out."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import RedirectResponse, Response
from starlette.concurrency import run_in_threadpool

from registry.errors import RegistryError
from registry.http.paths import PAGES, SIGN_IN
from registry.http.routes import service_of
from registry.web.pages import HEADERS, moved, page, pages, read_form
from registry.web.sessions.cookies import cookie_of, give, take
from registry.web.sessions.service import Sessions

#: Signing in has no session yet, and so no CSRF token: the gate asks for this origin.
entrance = APIRouter(include_in_schema=False)
router = pages()

_FIRST = f"{PAGES}adapters"


@entrance.get(SIGN_IN)
async def show_sign_in(
    request: Request, back: Annotated[str, Query(alias="next", max_length=4000)] = _FIRST
) -> Response:
    """Ask for a token."""
    return page(request, "sign_in.html", back=_own(back), message=None)


@entrance.post(SIGN_IN)
async def sign_in(request: Request) -> Response:
    """Trade a token for a session."""
    back = _FIRST
    try:
        form = await read_form(request)
        back = _own(form.get("next", _FIRST))
        secret = await run_in_threadpool(service_of(request, Sessions).begin, form.get("token", "").strip())
    except RegistryError as error:
        return page(request, "sign_in.html", status=error.status, back=back, message=error.message)
    answer = RedirectResponse(back, 303, headers=HEADERS)
    give(request, answer, secret)
    return answer


@router.post(f"{PAGES}sign-out")
async def sign_out(request: Request) -> Response:
    """End the session."""
    await run_in_threadpool(service_of(request, Sessions).end, cookie_of(request))
    answer = moved(SIGN_IN)
    take(request, answer)
    return answer


def _own(back: str) -> str:
    """Return where to go after signing in: a page of ours, whatever was asked for."""
    return back if back.startswith(PAGES) and "\\" not in back and not back.startswith("//") else _FIRST
