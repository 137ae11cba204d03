"""Asking the registry for work, and what is done with an answer that can't be understood."""

from __future__ import annotations

import re
from typing import Any

from pydantic import ValidationError

from sdk.client import Client
from sdk.errors import Incompatible
from sdk.schemas.codes import explain_validation
from sdk.schemas.wire import read
from sdk.schemas.work import Assignment, ClaimRequest, WorkerInfo

#: As the registry writes ids: a job's is part of paths, here and there.
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Misunderstood(Exception):  # noqa: N818 - it reads as what happened
    """The registry gave a job that asks for what this release does not know. Another worker may."""

    def __init__(self, job: str, attempt: int, why: str) -> None:
        super().__init__(why)
        self.job = job
        self.attempt = attempt


def claim(client: Client, worker: WorkerInfo, hint: str | None = None, *, key: str | None = None) -> Assignment | None:
    """Ask for work; None where there is none. The same `key` again gives the same job, for as long as it is held.

    Raises Misunderstood, Incompatible for an answer that is no job, and what the registry refuses.
    """
    headers = None if key is None else {"Idempotency-Key": key}
    body = ClaimRequest(worker=worker, hint=hint)
    kind: Any = dict[str, Any] | None
    answer: dict[str, Any] | None = client.call("POST", "/jobs/claim", kind, body=body, headers=headers)
    return None if answer is None else _understood(answer)


def _understood(answer: dict[str, Any]) -> Assignment:
    """Return an assignment. Fields that this release does not know are passed over, members and kinds are not."""
    job, attempt = answer.get("job"), answer.get("attempt")
    if not isinstance(job, str) or not _ID.fullmatch(job) or type(attempt) is not int:
        raise Incompatible(
            "the registry answers a claim with something that is no job; upgrade this worker or the registry"
        )
    try:
        return read(Assignment, answer)
    except ValidationError as error:
        why, _ = explain_validation(list(error.errors(include_url=False, include_context=False)))
        raise Misunderstood(job, attempt, why) from error
