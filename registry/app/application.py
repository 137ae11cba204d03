"""The application: every room's views over one set of services.

>>> from registry.settings import Settings
>>> settings = Settings(database_url="sqlite:////var/lib/registry.sqlite3", storage_url="s3://adapters", s3_region="eu-west-1")
>>> app = create_app(settings)
>>> app.title
'adapterctl registry'
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, nullcontext

from fastapi import FastAPI

from registry.access.authentication import Gatekeeper
from registry.access.caller_limits import CallerLimits
from registry.access.read_only.service import KeepReadOnly
from registry.app import openapi
from registry.app.rooms import OpenedRooms, OpenRooms
from registry.app.services import Services
from registry.door.allowed_hosts import AnswerOwnHosts, hosts_of
from registry.door.request_bodies import StrictBodies
from registry.http.refusals import REFUSALS
from registry.http.routes import SayVersion, install_error_handlers
from registry.queue import Queue
from registry.settings import Settings
from registry.storage import FolderStorage, Storage
from registry.storage.views import blob_routes
from sdk.version import VERSION

_TITLE = "adapterctl registry"

_log = logging.getLogger(__name__)


def create_app(
    settings: Settings, *, storage: Storage | None = None, queue: Queue | None = None, shows_pages: bool | None = None
) -> FastAPI:
    """Build the registry. Nothing is read or connected before the first request; the schema is not touched.

    `shows_pages`: whether there are pages for browsers. None: unless it is embedded, where commands ask it.
    """
    services = Services(settings, storage=storage, queue=queue)
    is_embedded = settings.embedded_home is not None

    @asynccontextmanager
    async def sweeping(_app: FastAPI) -> AsyncIterator[None]:
        # Commands over a folder don't sweep, and report nothing.
        from registry.app.reporting import reporting
        from registry.jobs.reconcile import in_background

        every_s = 0.0 if is_embedded else settings.reconcile_s
        background = in_background(services.reconciler, every_s=every_s) if every_s else nullcontext()
        with closing(services.reading), background:
            async with reporting(REFUSALS, services, reports=not is_embedded):
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
    rooms = OpenedRooms(app)
    openapi.describe(app, rooms.open_all)
    app.state.services = services
    app.state.documented = rooms.routes
    # By their classes, as views ask for them.
    app.state.by_class = services.by_class()
    install_error_handlers(app)
    # The last one added is the outermost: nothing of a request is read before its token was checked.
    app.add_middleware(StrictBodies, rights=rooms.rights)
    if is_embedded:
        app.add_middleware(OpenRooms, rooms=rooms)
    app.add_middleware(KeepReadOnly, switch=services.read_only)
    limits = CallerLimits(
        rate_limit_per_s=settings.rate_limit_per_s, failed_logins_per_minute=settings.failed_logins_per_minute
    )
    app.add_middleware(Gatekeeper, tokens=None if settings.auth == "none" else services.tokens, limits=limits)
    shows_pages = not is_embedded if shows_pages is None else shows_pages
    if shows_pages:
        # Commands that ask an embedded registry don't wait for templates to be imported.
        from registry.app.pages import OpenedPages, OpenPages, add_gate, add_ways, replace_errors

        pages = OpenedPages(app)
        if is_embedded:
            app.add_middleware(OpenPages, opened=pages)
        add_gate(app, settings, services.sessions, limits)
    if not is_embedded or shows_pages:
        hosts = hosts_of(auth=settings.auth, public_url=settings.public_url, allowed=settings.allowed_hosts)
        app.add_middleware(AnswerOwnHosts, hosts=hosts, refuses_pages=settings.auth == "none")
    if shows_pages:
        replace_errors(app)
    app.add_middleware(SayVersion)
    if not is_embedded:
        from registry.monitoring.request_times import TimeRequests

        app.add_middleware(TimeRequests)
        rooms.open_all()
    if shows_pages:
        add_ways(app)
        if not is_embedded:
            pages.open_all()
    if not is_embedded and isinstance(services.artifacts.storage, FolderStorage):
        app.router.routes.extend(blob_routes(services.artifacts.storage).routes)
    return app
