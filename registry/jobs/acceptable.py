"""What is found out about a job before it is accepted, outside of any transaction that writes."""

from __future__ import annotations

from typing import Any, NamedTuple

from registry.db.database import Database
from registry.jobs.forecasts import require_memory
from registry.jobs.kinds.rules import JobKindRules
from registry.jobs.pins import Pinned
from sdk.schemas.jobs import JobSubmission
from sdk.schemas.wire import Wire


class Acceptable(NamedTuple):
    """A request that may become a job, as long as its names mean what they were pinned to."""

    request: Wire
    #: What follows from it, by the column of the job.
    columns: dict[str, Any]


def acceptable(db: Database, rules: JobKindRules[Any], submission: JobSubmission, pinned: Pinned[Any]) -> Acceptable:
    """Check a pinned request against what it names, and forecast what it takes.

    Raises what the kind's `examine` does, and DoesNotFit for a job that every worker is too small for.
    """
    examined = rules.examine(db, pinned)
    estimate, needs = examined.estimate, examined.estimate.needs
    if submission.needs is not None:
        # What the request says counts; anything else is estimated.
        needs = needs.model_copy(update=submission.needs.model_dump(exclude_none=True))
    by_forecast = submission.needs is None or submission.needs.memory_bytes is None
    if by_forecast:
        where = {"namespace": pinned.namespace, "queue": rules.queue, "device": needs.device}
        require_memory(db, estimate, kind=rules.name, **where)
    return Acceptable(
        examined.request,
        {
            "request": examined.request.model_dump(mode="json"),
            "needs_device": needs.device,
            "needs_memory_bytes": needs.memory_bytes,
            "least_card_bytes": estimate.least_card_bytes if by_forecast else None,
            "least_machine_bytes": estimate.least_machine_bytes if by_forecast else None,
            "forecast": None if estimate.forecast is None else estimate.forecast.model_dump(mode="json"),
        },
    )
