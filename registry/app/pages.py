"""Every room's pages, and what stands in front of them."""

from __future__ import annotations

import secrets

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from registry.access.caller_limits import CallerLimits
from registry.app.page_services import PageServices
from registry.http.paths import PAGES
from registry.settings import Settings
from registry.web import assets
from registry.web.adapters import action_views as adapter_actions
from registry.web.adapters import decision_views as decisions
from registry.web.adapters import views as adapters
from registry.web.api import views as api
from registry.web.comparing import views as comparing
from registry.web.compression import Compression
from registry.web.curves import views as curves
from registry.web.error_pages import ErrorPages
from registry.web.jobs import actions as job_actions
from registry.web.jobs import views as jobs
from registry.web.reports import page_views as reports
from registry.web.rows import views as rows
from registry.web.sessions import views as sessions
from registry.web.sessions.gate import SessionGate
from registry.web.sessions.service import Sessions
from registry.web.sessions.site import Site
from registry.web.sweeps import views as sweeps
from registry.web.versions import views as versions
from registry.web.workers import views as workers

#: Every room's pages.
PAGE_ROUTERS = (
    sessions.entrance,
    sessions.router,
    api.router,
    adapter_actions.router,
    decisions.router,
    rows.router,
    # Names of adapters have parts, too: an address that ends with a number of a version is that version's.
    versions.router,
    curves.router,
    jobs.router,
    job_actions.router,
    sweeps.router,
    workers.router,
    comparing.router,
    reports.router,
    # Last: whatever follows the name of an adapter would be taken for a part of it.
    adapters.router,
)


def add_gate(app: FastAPI, settings: Settings, service: Sessions, limits: CallerLimits) -> None:
    """Let nobody see a page without a session."""
    site = Site(settings.public_url, "" if settings.embedded_home is None else secrets.token_hex(4))
    app.state.by_class |= {Site: site, CallerLimits: limits, **PageServices(app.state.services).by_class()}
    app.add_middleware(SessionGate, sessions=service, site=site, limits=limits)


def replace_errors(app: FastAPI) -> None:
    """Show errors below `/ui/` as pages, and compress these."""
    app.add_middleware(ErrorPages)
    app.add_middleware(Compression)


def add_routes(app: FastAPI) -> None:
    """Add the pages, styles and scripts."""
    app.router.routes.extend(assets.ROUTES)
    app.router.routes.extend(route for router in PAGE_ROUTERS for route in router.routes)
    app.router.routes.extend(Route(path, _to_pages, methods=["GET"]) for path in ("/", "/ui", PAGES))
    app.router.routes.append(Route("/favicon.ico", _to_icon, methods=["GET"]))


async def _to_pages(_request: Request) -> Response:
    return RedirectResponse(f"{PAGES}adapters", 303)


async def _to_icon(_request: Request) -> Response:
    return RedirectResponse(assets.asset("favicon.svg"), 307, headers={"Cache-Control": "public, max-age=86400"})
