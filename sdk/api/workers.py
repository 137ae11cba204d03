"""The workers that have reported to a registry, and the state of its queues."""

from __future__ import annotations

from sdk.api.transport import Transport
from sdk.schemas.planning import DeviceForecasts
from sdk.schemas.workers import QueueCapacity, WorkerView


def heard_of(transport: Transport) -> list[WorkerView]:
    """Return the workers that have reported in the last week, by name."""
    return transport.call("GET", "/workers", list[WorkerView])


def capacity(transport: Transport) -> list[QueueCapacity]:
    """Return the current state of each queue: waiting and running jobs, and workers that could take them."""
    return transport.call("GET", "/capacity", list[QueueCapacity])


def devices(transport: Transport) -> list[DeviceForecasts]:
    """Return how much of their forecasts past trainings took, by device."""
    return transport.call("GET", "/devices", list[DeviceForecasts])
