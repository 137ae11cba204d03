"""Every room's pages, and what stands in front of them.

A server imports all of them when it starts. Who opens the pages of a folder waits for the first one: there a room is imported
when one of its pages is asked for.
"""

from __future__ import annotations

import importlib
import secrets
from collections.abc import Iterable
from typing import NamedTuple

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from registry.access.caller_limits import CallerLimits
from registry.app.page_services import PageServices
from registry.app.rooms import is_below
from registry.http.paths import CODE, DOCS, PAGES, REPORTS, SIGN_IN, SIGN_OUT
from registry.settings import Settings
from registry.web import assets
from registry.web.compression import Compression
from registry.web.error_pages import ErrorPages
from registry.web.sessions.gate import SessionGate
from registry.web.sessions.service import Sessions
from registry.web.sessions.site import Site
from sdk.imports import nothing_collected

#: Where whoever has signed in begins.
_FIRST = f"{PAGES}adapters"


class PageRoom(NamedTuple):
    """The module with a room's pages, and their paths: each with all that is below it, or only that if it ends with `/`."""

    views: str
    paths: tuple[str, ...]
    routers: tuple[str, ...] = ("router",)


def _below_pages(views: str, *paths: str) -> PageRoom:
    return PageRoom(f"registry.web.{views}", tuple(f"{PAGES}{path}" for path in paths))


#: Routes are tried in this order.
PAGE_ROOMS = (
    PageRoom("registry.web.sessions.views", (SIGN_IN, CODE, SIGN_OUT), ("entrance", "router")),
    PageRoom("registry.web.api.views", (DOCS,)),
    _below_pages("adapters.action_views", "actions/"),
    _below_pages("adapters.decision_views", "decisions/"),
    _below_pages("rows.views", "adapters/", "evaluations/"),
    # Names of adapters have parts, too: an address that ends with a number of a version is that version's.
    _below_pages("versions.views", "adapters/", "version"),
    _below_pages("curves.views", "series", "series.svg"),
    _below_pages("jobs.views", "jobs"),
    _below_pages("jobs.actions", "jobs/"),
    _below_pages("sweeps.views", "sweeps"),
    _below_pages("workers.views", "workers"),
    _below_pages("comparing.views", "compare"),
    PageRoom("registry.web.reports.page_views", (REPORTS,)),
    # Last: whatever follows the name of an adapter would be taken for a part of it.
    _below_pages("adapters.views", "adapters", "adapter/", "history"),
)


def routes_of_pages(room: PageRoom) -> list[APIRoute]:
    """Import a room and return its routes."""
    module = importlib.import_module(room.views)
    return [route for name in room.routers for route in getattr(module, name).routes if isinstance(route, APIRoute)]


def add_gate(app: FastAPI, settings: Settings, service: Sessions, limits: CallerLimits) -> None:
    """Let nobody see a page without a session."""
    site = Site(settings.public_url, "" if settings.embedded_home is None else secrets.token_hex(4))
    app.state.by_class |= {Site: site, CallerLimits: limits}
    app.state.by_class.join_from(PageServices(app.state.services))
    app.add_middleware(SessionGate, sessions=service, site=site, limits=limits)


def replace_errors(app: FastAPI) -> None:
    """Show errors below `/ui/` as pages, and compress these."""
    app.add_middleware(ErrorPages)
    app.add_middleware(Compression)


def add_ways(app: FastAPI) -> None:
    """Add styles and scripts, and the ways to the pages."""
    app.router.routes.extend(assets.ROUTES)
    app.router.routes.extend(Route(path, _to_pages, methods=["GET"]) for path in ("/", "/ui", PAGES))
    app.router.routes.append(Route("/favicon.ico", _to_icon, methods=["GET"]))


class OpenedPages:
    """The pages that an application has imported."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._opened: dict[PageRoom, list[APIRoute]] = {}

    def open_all(self) -> None:
        """Import every room."""
        self._open(PAGE_ROOMS)

    def open_for(self, path: str) -> None:
        """Import the rooms that a page may be of."""
        if len(self._opened) < len(PAGE_ROOMS):
            self._open(room for room in PAGE_ROOMS if any(is_below(path, own) for own in room.paths))

    def _open(self, rooms: Iterable[PageRoom]) -> None:
        wanted = [room for room in rooms if room not in self._opened]
        if not wanted:
            return
        with nothing_collected():
            new = {room: routes_of_pages(room) for room in wanted}
        before = {id(route) for routes in self._opened.values() for route in routes}
        self._opened |= new
        # In their order, whichever was imported first.
        others = [route for route in self._app.router.routes if id(route) not in before]
        self._app.router.routes[:] = [*others, *(route for room in PAGE_ROOMS for route in self._opened.get(room, ()))]


class OpenPages:
    """ASGI middleware: a page is imported before anything else looks for it."""

    def __init__(self, app: ASGIApp, *, opened: OpenedPages) -> None:
        self._app, self._pages = app, opened

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Import, and pass the request on. An import waits for no other process, so it needs no thread."""
        if scope["type"] == "http":
            self._pages.open_for(scope["path"])
        await self._app(scope, receive, send)
        if scope["type"] == "http" and scope["path"] == CODE:
            # The browser is busy with the answer for a moment, and then asks for this.
            self._pages.open_for(_FIRST)


async def _to_pages(_request: Request) -> Response:
    return RedirectResponse(_FIRST, 303)


async def _to_icon(_request: Request) -> Response:
    return RedirectResponse(assets.asset("favicon.svg"), 307, headers={"Cache-Control": "public, max-age=86400"})
