"""Workers, and what the fleet has room for."""

from __future__ import annotations

from fastapi import Response

from registry.http.routes import Given, Reader, WorkerToken, room
from sdk.schemas.jobs import QueueCapacity, WorkerView
from sdk.schemas.work import Farewell, WorkerInfo

router = room("", "jobs")


@router.get("/workers")
def list_workers(services: Given, who: Reader) -> list[WorkerView]:
    """The workers of the last week that work where the caller reads, by name."""
    return services.workers.list(who=who)


@router.get("/capacity")
def read_capacity(services: Given, who: Reader) -> list[QueueCapacity]:
    """Each queue as it is now: what waits, what runs, and who could take it."""
    return services.workers.capacity(who=who)


@router.post("/workers/hello", status_code=204)
def greet(body: WorkerInfo, services: Given, who: WorkerToken) -> Response:
    """Say that a worker is there and has nothing to do."""
    services.workers.hello(body, who=who)
    return Response(status_code=204)


@router.post("/workers/leave", status_code=204)
def leave(body: Farewell, services: Given, who: WorkerToken) -> Response:
    """Say that a worker takes no more jobs."""
    services.workers.leave(body.worker, who=who)
    return Response(status_code=204)
