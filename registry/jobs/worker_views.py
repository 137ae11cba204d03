"""Workers, and how busy they are."""

from __future__ import annotations

from typing import Annotated

from fastapi import Response

from registry.http.routes import Reader, WorkerToken, room, service
from registry.jobs.workers import Workers
from sdk.schemas.planning import DeviceForecasts
from sdk.schemas.work import Farewell, QueueCapacity, WorkerInfo, WorkerView

router = room("", "jobs")

WorkersDep = Annotated[Workers, service(Workers)]


@router.get("/workers")
def list_workers(workers: WorkersDep, who: Reader) -> list[WorkerView]:
    """The workers of the last week that work where the caller reads, by name."""
    return workers.list(who=who)


@router.get("/capacity")
def read_capacity(workers: WorkersDep, who: Reader) -> list[QueueCapacity]:
    """Each queue as it is now: waiting and running jobs, and workers that could take them."""
    return workers.capacity(who=who)


@router.get("/devices")
def list_devices(workers: WorkersDep, who: Reader) -> list[DeviceForecasts]:
    """What past trainings that the caller may read took of their forecasts, and how fast they were, by device."""
    return workers.devices(who=who)


@router.post("/workers/hello", status_code=204)
def greet(body: WorkerInfo, workers: WorkersDep, who: WorkerToken) -> Response:
    """Report that a worker is there and idle."""
    workers.hello(body, who=who)
    return Response(status_code=204)


@router.post("/workers/leave", status_code=204)
def leave(body: Farewell, workers: WorkersDep, who: WorkerToken) -> Response:
    """Report that a worker takes no more jobs."""
    workers.leave(body.worker, who=who)
    return Response(status_code=204)
