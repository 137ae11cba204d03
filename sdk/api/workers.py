"""The workers that a registry has heard of, and what its queues look like."""

from __future__ import annotations

from sdk.api.transport import Transport
from sdk.errors import NotFound
from sdk.schemas.planning import DeviceForecasts
from sdk.schemas.workers import QueueCapacity, WorkerView


def heard_of(transport: Transport) -> list[WorkerView]:
    """Return the workers that were heard from in the last week, by name."""
    return transport.call("GET", "/workers", list[WorkerView])


def capacity(transport: Transport) -> list[QueueCapacity]:
    """Return each queue as it is now: waiting and running jobs, and workers that could take them."""
    return transport.call("GET", "/capacity", list[QueueCapacity])


def devices(transport: Transport) -> list[DeviceForecasts]:
    """Return what past trainings took of their forecasts, by device; none from a registry of an earlier release, which has no such route."""
    try:
        return transport.call("GET", "/devices", list[DeviceForecasts])
    except NotFound:
        return []
