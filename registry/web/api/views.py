"""The page of the API: its document, made into HTML once, when somebody asks for it. It has no script."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from registry.http.paths import DOCS
from registry.web.api.reference import reference_of
from registry.web.pages import HEADERS, open_pages
from registry.web.rendering import render

#: Whoever programs against the API has a token elsewhere, and needs no session.
router = open_pages()


@router.get(DOCS)
async def show_api(request: Request) -> Response:
    """Show every route, and the types of what it takes and answers."""
    app: FastAPI = request.app
    if getattr(app.state, "api_page", None) is None:
        app.state.api_page = await run_in_threadpool(_made, app)
    headers = {**HEADERS, "Cache-Control": "no-cache"}
    return Response(app.state.api_page, headers=headers, media_type="text/html; charset=utf-8")


def _made(app: FastAPI) -> str:
    return render("api/reference.html", who=None, csrf="", reference=reference_of(app.openapi()))
