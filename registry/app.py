"""The application: every room's views over one set of services.

>>> from registry.settings import Settings
>>> settings = Settings(database_url="sqlite:////var/lib/registry.sqlite3", storage_url="s3://adapters", s3_region="eu-west-1")
>>> app = create_app(settings)
>>> app.title
'adapterctl registry'
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import FastAPI, Request, Response

from registry.artifacts import views as artifacts
from registry.bodies import StrictBodies
from registry.catalog import views as catalog
from registry.datasets import views as datasets
from registry.errors import Unavailable
from registry.evaluations import views as evaluations
from registry.http import VERSION, VERSION_HEADER, install_error_handlers
from registry.jobs import views as jobs
from registry.queue import Queue
from registry.services import Services, build
from registry.settings import Settings
from registry.storage import FolderStorage, Storage
from registry.storage.folder import BLOBS_PATH
from registry.storage.views import blob_routes


def create_app(settings: Settings, *, storage: Storage | None = None, queue: Queue | None = None) -> FastAPI:
    """Build the registry. Nothing is read or connected before the first request; the schema is not touched."""
    services = build(settings, storage=storage, queue=queue)
    app = FastAPI(title="adapterctl registry", version=VERSION, redoc_url=None)
    app.state.services = services
    install_error_handlers(app)
    app.add_middleware(StrictBodies, besides=BLOBS_PATH)

    @app.middleware("http")
    async def _say_version(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await call_next(request)
        response.headers[VERSION_HEADER] = VERSION
        return response

    for room in (catalog, artifacts, datasets, jobs, evaluations):
        app.include_router(room.router)
    if settings.embedded_home is None and isinstance(services.artifacts.storage, FolderStorage):
        app.include_router(blob_routes(services.artifacts.storage))
    _add_health(app, services)
    return app


def _add_health(app: FastAPI, services: Services) -> None:
    @app.get("/healthz", tags=["health"])
    def healthz() -> dict[str, str]:
        """Say that the process answers."""
        return {"status": "ok", "version": VERSION}

    @app.get("/readyz", tags=["health"], responses={503: {"description": "Database or storage can't be used."}})
    def readyz() -> dict[str, str]:
        """Say whether database and storage can be used."""
        services.db.require_current()
        try:
            services.artifacts.storage.check()
        except Exception as error:
            raise Unavailable(f"the storage can't be used: {error}") from error
        return {"status": "ready", "version": VERSION}
