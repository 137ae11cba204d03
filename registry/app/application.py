"""The application: every room's views over one set of services.

>>> from registry.settings import Settings
>>> settings = Settings(database_url="sqlite:////var/lib/registry.sqlite3", storage_url="s3://adapters", s3_region="eu-west-1")
>>> app = create_app(settings)
>>> app.title
'adapterctl registry'
"""

from __future__ import annotations

import functools
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, nullcontext

from fastapi import FastAPI
from fastapi.routing import APIRoute

from registry.access import views as auth
from registry.access.audit import views as audit
from registry.access.authentication import Gatekeeper
from registry.access.caller_limits import CallerLimits
from registry.access.read_only.service import KeepReadOnly
from registry.app import health, openapi
from registry.app.health import Readiness, readiness_of
from registry.app.reporting import reporting
from registry.app.services import Services
from registry.artifacts import views as artifacts
from registry.catalog import views as catalog
from registry.datasets import views as datasets
from registry.door.allowed_hosts import AnswerOwnHosts, hosts_of
from registry.door.request_bodies import StrictBodies
from registry.evaluations import views as evaluations
from registry.http.refusals import REFUSALS
from registry.http.rights import Rights
from registry.http.routes import VERSION, SayVersion, install_error_handlers
from registry.jobs import event_stream
from registry.jobs import views as jobs
from registry.jobs.reconcile import in_background
from registry.lineage import views as lineage
from registry.monitoring import views as metrics
from registry.monitoring.request_times import TimeRequests
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
from registry.web.reports import views as reports
from registry.web.sessions import code_views as codes

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
    codes,
    reports,
)


def create_app(
    settings: Settings, *, storage: Storage | None = None, queue: Queue | None = None, shows_pages: bool | None = None
) -> FastAPI:
    """Build the registry. Nothing is read or connected before the first request; the schema is not touched.

    `shows_pages`: whether there are pages for browsers. None: unless it is embedded, where commands ask it.
    """
    services = Services(settings, storage=storage, queue=queue)

    @asynccontextmanager
    async def sweeping(_app: FastAPI) -> AsyncIterator[None]:
        every_s = 0.0 if settings.embedded_home is not None else settings.reconcile_s
        background = in_background(services.reconciler, every_s=every_s) if every_s else nullcontext()
        with closing(services.reading), background:
            async with reporting(REFUSALS, services, reports=settings.embedded_home is None):
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
    openapi.describe(app)
    app.state.services = services
    app.state.documented = _documented()
    # By their classes, as views ask for them.
    app.state.by_class = {**services.by_class(), Readiness: readiness_of(services)}
    install_error_handlers(app)
    # The last one added is the outermost: nothing of a request is read before its token was checked.
    app.add_middleware(StrictBodies, rights=Rights(app.state.documented))
    app.add_middleware(KeepReadOnly, switch=services.read_only)
    limits = CallerLimits(
        rate_limit_per_s=settings.rate_limit_per_s, failed_logins_per_minute=settings.failed_logins_per_minute
    )
    app.add_middleware(Gatekeeper, tokens=None if settings.auth == "none" else services.tokens, limits=limits)
    shows_pages = settings.embedded_home is None if shows_pages is None else shows_pages
    if shows_pages:
        # Commands that ask an embedded registry don't wait for templates to be imported.
        from registry.app.pages import add_gate, add_routes, replace_errors

        add_gate(app, settings, services.sessions, limits)
    if settings.embedded_home is None or shows_pages:
        hosts = hosts_of(auth=settings.auth, public_url=settings.public_url, allowed=settings.allowed_hosts)
        app.add_middleware(AnswerOwnHosts, hosts=hosts, refuses_pages=settings.auth == "none")
    if shows_pages:
        replace_errors(app)
    app.add_middleware(SayVersion)
    if settings.embedded_home is None:
        app.add_middleware(TimeRequests)
    # Not by `include_router`: with it, the first request would work out again, for all the routes that it is compared
    # with, what FastAPI had worked out when their views were imported. That takes 0.08 s.
    app.router.routes.extend(app.state.documented)
    if shows_pages:
        add_routes(app)
    if settings.embedded_home is None and isinstance(services.artifacts.storage, FolderStorage):
        app.router.routes.extend(blob_routes(services.artifacts.storage).routes)
    return app


@functools.cache
def _documented() -> list[APIRoute]:
    """What the document describes: every route except those of blobs, which are only reached by signed URLs."""
    routers = [*(room.router for room in ROOMS), metrics.router, health.router]
    return [route for router in routers for route in router.routes if isinstance(route, APIRoute)]
