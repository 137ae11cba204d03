"""The workers that run jobs, the queues that they take them from, and what trainings have taken on their devices."""

from __future__ import annotations

import builtins

from sdk.api.transport import Routes
from sdk.notebook.table_list import TableList
from sdk.schemas.planning import DeviceForecasts
from sdk.schemas.work import QueueCapacity, WorkerView


class WorkersAPI(Routes):
    """The workers, and what they can take. Called, it lists them."""

    def __call__(self) -> builtins.list[WorkerView]:
        """The workers that have reported in the last week, by name; memory in bytes."""
        return TableList(self._transport.call("GET", "/workers", list[WorkerView]))

    list = __call__

    def capacity(self) -> builtins.list[QueueCapacity]:
        """Each queue as it is now: waiting and running jobs, and workers that could take them; ages in seconds."""
        return self._transport.call("GET", "/capacity", list[QueueCapacity])

    def devices(self) -> builtins.list[DeviceForecasts]:
        """How much of their forecasts past trainings took, and how fast they were, by device.

        Devices with fewer than five trainings are left out.
        """
        return self._transport.call("GET", "/devices", list[DeviceForecasts])
