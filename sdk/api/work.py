"""What workers call: they claim a job, hold it, and report how it ended."""

from __future__ import annotations

import re
from typing import Any

from pydantic import ValidationError

from sdk.api.transport import Transport
from sdk.errors import Incompatible
from sdk.schemas.codes import explain_validation
from sdk.schemas.jobs import CheckpointView, JobView
from sdk.schemas.series import SentPoints, StoredPoints
from sdk.schemas.sweeps import RungAnswer, RungReached
from sdk.schemas.wire import read
from sdk.schemas.work import (
    Assignment,
    CheckpointRecord,
    ClaimRequest,
    Completion,
    Failure,
    Farewell,
    Heartbeat,
    HeartbeatReply,
    Release,
    WorkerInfo,
)

#: The registry's form of ids: a job's id becomes part of paths, here and at the worker.
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
#: A checkpoint's files are checked before it is stored.
_RECORDING_S = 600.0
#: The registry can take a while to make a version of a result.
COMPLETING_S = 1800.0
_REPORTING_S = 60.0


class NotUnderstoodError(Exception):
    """The registry gave out a job that this release does not understand. Another worker may understand it."""

    def __init__(self, job: str, attempt: int, why: str) -> None:
        super().__init__(why)
        self.job = job
        self.attempt = attempt


def claim(transport: Transport, request: ClaimRequest, *, key: str | None = None) -> Assignment | None:
    """Ask for work; None if there is none. The same `key` again gives the same job, as long as it is held.

    Raises NotUnderstoodError, Incompatible for an answer that is not a job, and any refusal of the registry.
    """
    headers = None if key is None else {"Idempotency-Key": key}
    reply: Any = dict[str, Any] | None
    answer: dict[str, Any] | None = transport.call("POST", "/jobs/claim", reply, body=request, headers=headers)
    return None if answer is None else _understood(answer)


def _understood(answer: dict[str, Any]) -> Assignment:
    """Return an assignment. Unlike in data that is only displayed, an unknown member or kind is an error."""
    job, attempt = answer.get("job"), answer.get("attempt")
    if not isinstance(job, str) or not _ID.fullmatch(job) or type(attempt) is not int:
        raise Incompatible(
            "the registry answers a claim with something other than a job; upgrade this worker or the registry"
        )
    try:
        return read(Assignment, answer)
    except ValidationError as error:
        why, _ = explain_validation(list(error.errors(include_url=False, include_context=False)))
        raise NotUnderstoodError(job, attempt, why) from error


def heartbeat(transport: Transport, job: str, beat: Heartbeat, *, timeout_s: float) -> HeartbeatReply:
    """Extend the lease on a job and report events. Raises StaleAttempt if another attempt holds it, NotFound."""
    return transport.call("POST", f"/jobs/{job}/heartbeat", HeartbeatReply, body=beat, timeout_s=timeout_s)


def record_checkpoint(transport: Transport, job: str, record: CheckpointRecord) -> CheckpointView:
    """Record a checkpoint whose files were uploaded. Raises StaleAttempt, VerificationFailed, QuotaExceeded."""
    return transport.call("POST", f"/jobs/{job}/checkpoints", CheckpointView, body=record, timeout_s=_RECORDING_S)


def send_points(transport: Transport, job: str, sent: SentPoints, *, timeout_s: float = _REPORTING_S) -> StoredPoints:
    """Send points of a training; the answer says from where to go on. Raises StaleAttempt, QuotaExceeded, NotFound for
    an older registry, which has no series.
    """
    return transport.call("POST", f"/jobs/{job}/series", StoredPoints, body=sent, timeout_s=timeout_s)


def ask_at_rung(transport: Transport, job: str, reached: RungReached, *, timeout_s: float) -> RungAnswer:
    """Ask whether a training of a sweep goes on after a rung; asked again, the answer is the same. Raises StaleAttempt, and
    NotFound for an older registry, which has no sweeps.
    """
    return transport.call("POST", f"/jobs/{job}/rungs", RungAnswer, body=reached, timeout_s=timeout_s)


def complete(transport: Transport, job: str, completion: Completion, *, timeout_s: float = COMPLETING_S) -> JobView:
    """Hand in a job's result; the job that is returned is cancelled if somebody did so before. Raises StaleAttempt,
    VerificationFailed.
    """
    return transport.call("POST", f"/jobs/{job}/complete", JobView, body=completion, timeout_s=timeout_s)


def fail(transport: Transport, job: str, failure: Failure, *, timeout_s: float = _REPORTING_S) -> JobView:
    """Report why an attempt ended without a result. Raises StaleAttempt."""
    return transport.call("POST", f"/jobs/{job}/fail", JobView, body=failure, timeout_s=timeout_s)


def release(transport: Transport, job: str, given_back: Release, *, timeout_s: float = _REPORTING_S) -> JobView:
    """Give a job back for another worker. Raises StaleAttempt."""
    return transport.call("POST", f"/jobs/{job}/release", JobView, body=given_back, timeout_s=timeout_s)


def hello(transport: Transport, worker: WorkerInfo, *, timeout_s: float = _REPORTING_S) -> None:
    """Report that a worker is available, and its equipment."""
    transport.call("POST", "/workers/hello", type(None), body=worker, timeout_s=timeout_s)


def leave(transport: Transport, farewell: Farewell, *, timeout_s: float = _REPORTING_S) -> None:
    """Report that a worker accepts no more jobs."""
    transport.call("POST", "/workers/leave", type(None), body=farewell, timeout_s=timeout_s)
