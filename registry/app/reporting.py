"""What a server process tells the others: what it has refused, and what it is doing."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from registry.app.services import Services
from registry.errors import RegistryError
from registry.http.refusals import Refusals
from registry.monitoring.processes import REPORT_S

#: How often a process adds its refusals to the shared counters, in seconds.
KEEP_REFUSALS_S = 5.0

_log = logging.getLogger(__name__)


@asynccontextmanager
async def reporting(refusals: Refusals, services: Services, *, reports: bool) -> AsyncIterator[None]:
    """Add what this process refuses to the counters that all processes share, every few seconds and when it ends, and report
    what it is doing.

    While the registry is read-only, refusals are only counted in this process, and nothing is reported.
    """
    ends = asyncio.Event()
    reported_s = float("-inf")

    async def keep() -> None:
        nonlocal reported_s
        if await run_in_threadpool(services.read_only.reason) is not None:
            return
        counted = refusals.drain()
        try:
            if counted:
                await run_in_threadpool(services.metrics.add_refusals, counted)
        except (RegistryError, SQLAlchemyError) as error:
            refusals.restore(counted)
            _log.debug("refusals will be counted later: %s", type(error).__name__)
        if not reports or ends.is_set() or time.monotonic() - reported_s < REPORT_S:
            return
        reported_s = time.monotonic()
        try:
            await run_in_threadpool(services.processes.report, services.processes.figures())
        except (RegistryError, SQLAlchemyError) as error:
            _log.debug("this process will report later: %s", type(error).__name__)

    async def keep_on() -> None:
        while not ends.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(ends.wait(), KEEP_REFUSALS_S)
            await keep()

    keeping = asyncio.create_task(keep_on(), name="refusals and reports")
    try:
        yield
    finally:
        # Not cancelled: what was drained a moment ago would be lost.
        ends.set()
        await keeping
