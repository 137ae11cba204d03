"""A job as the registry shows it, with defaults for all that a test doesn't say."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sdk.schemas.jobs import JobState, JobView


def job_view(**known: Any) -> JobView:
    """Return a training that has succeeded, except for what is `known` about it."""
    plain: dict[str, Any] = {
        "id": "j1",
        "kind": "training",
        "state": JobState.SUCCEEDED,
        "subject": "x",
        "attempt": 1,
        "reason": None,
        "message": None,
        "cancel_requested": False,
        "progress": None,
        "result": None,
        "request": {},
        "worker": None,
        "created_at": datetime(2026, 1, 1, tzinfo=UTC),
        "started_at": None,
        "finished_at": None,
    }
    return JobView(**{**plain, **known})
