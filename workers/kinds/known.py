"""The kinds of job that a worker of this release does."""

from __future__ import annotations

from typing import Any

from sdk.errors import VerificationFailed
from sdk.schemas.work import Assignment
from workers.kinds.attempt import Attempt, KindOfWork
from workers.kinds.combine import COMBINE
from workers.kinds.evaluation import EVALUATION
from workers.kinds.merge import MERGE
from workers.kinds.preview import PREVIEW
from workers.kinds.training import TRAINING

KINDS: dict[str, KindOfWork[Any]] = {kind.name: kind for kind in (TRAINING, EVALUATION, MERGE, PREVIEW, COMBINE)}


def require_pinned(assignment: Assignment) -> None:
    """Raise VerificationFailed if an input is not the one that the job asked for."""
    request = assignment.request
    wrong = next(KINDS[request.kind].differences(assignment, request), None)
    if wrong is not None:
        raise VerificationFailed(
            f"the registry's assignment for job {assignment.job} is not what was submitted ({wrong}); tell an admin, "
            "then submit it again"
        )


def carry_out(attempt: Attempt) -> None:
    """Do the job of an attempt and hand in its result. Raises AttemptFailed, Stopped, AdapterctlError."""
    request = attempt.assignment.request
    KINDS[request.kind].carry_out(attempt, request)
