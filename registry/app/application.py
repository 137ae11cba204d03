"""The application: every room's views over one set of services.

>>> from registry.settings import Settings
>>> settings = Settings(database_url="sqlite:////var/lib/registry.sqlite3", storage_url="s3://adapters", s3_region="eu-west-1")
>>> app = create_app(settings)
>>> app.title
'adapterctl registry'
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, nullcontext, suppress

from fastapi import FastAPI, Request, Response
from fastapi.responses import RedirectResponse
from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.routing import BaseRoute, Route

from registry.access import views as auth
from registry.access.audit import views as audit
from registry.access.authentication import Gatekeeper
from registry.access.read_only.service import KeepReadOnly, ReadOnlySwitch
from registry.app import health, openapi
from registry.app.health import Readiness, readiness_of
from registry.app.services import Services
from registry.artifacts import views as artifacts
from registry.catalog import views as catalog
from registry.datasets import views as datasets
from registry.door.allowed_hosts import AnswerOwnHosts, hosts_of
from registry.door.request_bodies import StrictBodies
from registry.errors import RegistryError
from registry.evaluations import views as evaluations
from registry.http.paths import PAGES
from registry.http.refusals import REFUSALS, Refusals
from registry.http.rights import Rights
from registry.http.routes import VERSION, SayVersion, install_error_handlers
from registry.jobs import event_stream
from registry.jobs import views as jobs
from registry.jobs.reconcile import in_background
from registry.lineage import views as lineage
from registry.monitoring import views as metrics
from registry.monitoring.service import Metrics
from registry.promotion import approval_views as approvals
from registry.promotion import probe_views as probes
from registry.promotion import statement_views as statements
from registry.promotion import views as promotion
from registry.promotion.policies import views as policies
from registry.queue import Queue
from registry.quotas import views as quotas
from registry.removal import views as removal
from registry.search import views as search
from registry.series import views as series
from registry.serving import views as serving
from registry.settings import Settings
from registry.signatures import views as signatures
from registry.storage import FolderStorage, Storage
from registry.storage.views import blob_routes
from registry.sweeps import views as sweeps
from registry.web import assets
from registry.web.adapters import views as adapter_pages
from registry.web.comparing import views as compare_pages
from registry.web.curves import views as curve_pages
from registry.web.reports import page_views as report_pages
from registry.web.reports import views as reports
from registry.web.sessions import views as session_pages
from registry.web.sessions.gate import SessionGate

#: How often a process adds its refusals to the shared counters, in seconds.
_KEEP_REFUSALS_S = 5.0

_TITLE = "adapterctl registry"

_log = logging.getLogger(__name__)

#: Every room that answers requests. Routes are tried in this order: the one that is requested most comes first.
ROOMS = (
    catalog,
    artifacts,
    datasets,
    jobs,
    event_stream,
    series,
    sweeps,
    promotion,
    policies,
    approvals,
    probes,
    evaluations,
    lineage,
    auth,
    quotas,
    audit,
    removal,
    search,
    signatures,
    statements,
    serving,
    reports,
)
#: Every room's pages.
PAGE_ROUTERS = (
    session_pages.entrance,
    session_pages.router,
    adapter_pages.router,
    curve_pages.router,
    compare_pages.router,
    report_pages.router,
)


def create_app(settings: Settings, *, storage: Storage | None = None, queue: Queue | None = None) -> FastAPI:
    """Build the registry. Nothing is read or connected before the first request; the schema is not touched."""
    services = Services(settings, storage=storage, queue=queue)

    @asynccontextmanager
    async def sweeping(_app: FastAPI) -> AsyncIterator[None]:
        every_s = 0.0 if settings.embedded_home is not None else settings.reconcile_s
        background = in_background(services.reconciler, every_s=every_s) if every_s else nullcontext()
        with closing(services.reading), background:
            async with _keeping_refusals(REFUSALS, services.metrics, services.read_only):
                yield

    app = FastAPI(
        lifespan=sweeping,
        title=_TITLE,
        version=VERSION,
        description=openapi.DESCRIPTION,
        openapi_tags=openapi.TAGS,
        docs_url=None,
        redoc_url=None,
    )
    app.router.routes.extend(_pages())
    openapi.describe(app)
    app.state.services = services
    app.state.documented = _documented()
    # By their classes, as views ask for them.
    app.state.by_class = {**services.by_class(), Readiness: readiness_of(services)}
    install_error_handlers(app)
    # The last one added is the outermost: nothing of a request is read before its token was checked.
    app.add_middleware(StrictBodies, rights=Rights(app.state.documented))
    app.add_middleware(KeepReadOnly, switch=services.read_only)
    app.add_middleware(
        Gatekeeper,
        tokens=None if settings.auth == "none" else services.tokens,
        rate_limit_per_s=settings.rate_limit_per_s,
        failed_logins_per_minute=settings.failed_logins_per_minute,
    )
    app.add_middleware(SessionGate, sessions=services.sessions)
    if settings.embedded_home is None:
        hosts = hosts_of(auth=settings.auth, public_url=settings.public_url, allowed=settings.allowed_hosts)
        app.add_middleware(AnswerOwnHosts, hosts=hosts, refuses_pages=settings.auth == "none")
    app.add_middleware(SayVersion)
    # Not by `include_router`: with it, the first request would work out again, for all the routes that it is compared
    # with, what FastAPI had worked out when their views were imported. That takes 0.08 s.
    app.router.routes.extend(app.state.documented)
    app.router.routes.extend(assets.ROUTES)
    app.router.routes.extend(route for router in PAGE_ROUTERS for route in router.routes)
    app.router.routes.append(Route("/", _to_pages, methods=["GET"]))
    if settings.embedded_home is None and isinstance(services.artifacts.storage, FolderStorage):
        app.router.routes.extend(blob_routes(services.artifacts.storage).routes)
    return app


async def _to_pages(_request: Request) -> Response:
    return RedirectResponse(f"{PAGES}adapters", 303)


@functools.cache
def _pages() -> list[BaseRoute]:
    """The page of the API. It loads nothing from other hosts: in many places the users of a registry can't reach any.

    It is also made only once per process: FastAPI remembers the function of each route, and this one would keep its
    application alive.
    """
    offline = FastAPIOffline(title=_TITLE, redoc_url=None)
    return [route for route in offline.router.routes if getattr(route, "path", None) != offline.openapi_url]


@functools.cache
def _documented() -> list[APIRoute]:
    """What the document describes: every route except those of blobs, which are only reached by signed URLs."""
    routers = [*(room.router for room in ROOMS), metrics.router, health.router]
    return [route for router in routers for route in router.routes if isinstance(route, APIRoute)]


@asynccontextmanager
async def _keeping_refusals(refusals: Refusals, metrics: Metrics, read_only: ReadOnlySwitch) -> AsyncIterator[None]:
    """Add what this process refuses to the counters that all processes share, every few seconds and when it ends.

    While the registry is read-only, they are only counted in this process.
    """
    ends = asyncio.Event()

    async def keep() -> None:
        if await run_in_threadpool(read_only.reason) is not None:
            return
        counted = refusals.drain()
        if not counted:
            return
        try:
            await run_in_threadpool(metrics.add_refusals, counted)
        except (RegistryError, SQLAlchemyError) as error:
            refusals.restore(counted)
            _log.debug("refusals will be counted later: %s", type(error).__name__)

    async def keep_on() -> None:
        while not ends.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(ends.wait(), _KEEP_REFUSALS_S)
            await keep()

    keeping = asyncio.create_task(keep_on(), name="refusals")
    try:
        yield
    finally:
        # Not cancelled: what was drained a moment ago would be lost.
        ends.set()
        await keeping
