"""What the registry knows about a kind of job: one frozen value per kind; and what a worker hands in, checked against what
its job asked for.

Values in the request are recorded as requested, and a worker that reports different ones is refused. What the request
left open, and what only the worker can know, is taken from the worker and marked as reported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

from sqlalchemy.orm import Session

from registry.artifacts.service import Artifacts
from registry.catalog.publishing.publisher import Publisher
from registry.db.database import Database
from registry.errors import Verification
from registry.jobs import attempts
from registry.jobs.forecasts import Estimate, require_memory
from registry.jobs.models import Job
from registry.jobs.pins import Pinned
from registry.jobs.sources import JobInputs
from registry.principal import Principal
from sdk.schemas.catalog import JobRef, Publication, VersionView
from sdk.schemas.job_requests import EvaluationRequest, SweepPlace
from sdk.schemas.jobs import JobSubmission, JobView, QueueName
from sdk.schemas.scores import Contamination
from sdk.schemas.sweeps import MemberResult
from sdk.schemas.wire import Wire
from sdk.schemas.work import Assignment, Completion, EvaluationResult

R = TypeVar("R", bound=Wire)


#: By target and metric, the ends of the 95 % interval of a score, where its rows say them.
Intervals = Mapping[str, Mapping[str, tuple[float, float]]]
#: Appends the scores of a job in the caller's transaction; returns the id of each result, None if it has no scores. The
#: room of evaluations does it.
KeepScores = Callable[
    [
        Session,
        Job,
        int,
        EvaluationRequest,
        Sequence[EvaluationResult],
        Mapping[str, Contamination],
        Intervals,
        Principal,
    ],
    Sequence[str | None],
]
#: Says which rows of an evaluation by a job its targets (digests by label) were trained on, for those for which it is
#: quick to find out; the room of evaluations does it, too.
LookForTrainingRows = Callable[[EvaluationRequest, str, Mapping[str, str | None]], Mapping[str, Contamination]]
#: Keeps what a training has measured for a version that was just made of it, or only until a step; the room of series
#: does it.
KeepSeries = Callable[[Session, JobRef, VersionView, int | None], None]


#: Keeps what a member of a sweep has handed in, in the caller's transaction: its place, the step of its weights, what it says
#: of itself, and the version that it may become. The room of sweeps does it.
KeepMember = Callable[[Session, SweepPlace, int, MemberResult, Publication], None]


@dataclass(frozen=True)
class CompletionServices:
    """The services of other rooms that a completion needs for its effect."""

    db: Database
    artifacts: Artifacts
    publisher: Publisher
    keep_scores: KeepScores
    keep_series: KeepSeries
    keep_member: KeepMember
    look_for_training_rows: LookForTrainingRows


@dataclass(frozen=True)
class HandedIn:
    """A result that a worker hands in, for an attempt that it holds."""

    job: JobView
    completion: Completion
    who: Principal

    def succeed(self, session: Session, result: dict[str, Any]) -> None:
        """Make the job succeed within the last transaction of its effect. Raises StaleAttempt, or Conflict if it was
        cancelled.
        """
        attempts.succeed(session, self.job.id, self.completion.attempt, result, who=self.who)


@dataclass(frozen=True)
class Examined(Generic[R]):
    """A request that was checked against what it names."""

    request: R
    #: How much memory it takes, as far as the base is known.
    estimate: Estimate = field(default_factory=Estimate)


@dataclass(frozen=True)
class JobKindRules(Generic[R]):
    """One kind of job."""

    #: What is asked for; its field `kind` has the kind's name.
    request: type[R]
    queue: QueueName
    #: The fields of the request that name datasets.
    datasets: tuple[str, ...]
    #: Makes every name exact; the last argument says whether every folder is a shared path. It is done in the
    #: transaction that accepts the job too, so it changes nothing and reads nothing of the size of a base or an adapter.
    #: Raises NotFound for what does not exist or may not be seen, Forbidden, InvalidBase for a base that no worker can
    #: reach.
    pin: Callable[[Session, R, Principal, bool], Pinned[R]]
    #: What a worker is given. Raises NotFound if something is gone by now, Unreadable.
    assign: Callable[[Session, R, Job], JobInputs]
    #: Checks the result against the request and applies its effects; calls `succeed` in its last transaction. Raises a
    #: RegistryError to refuse the result.
    complete: Callable[[CompletionServices, R, HandedIn], None]
    #: Checks everything that takes long, outside of any transaction that writes. Raises what `pin` does, and
    #: ChangedError if a name means something else by now.
    examine: Callable[[Database, Pinned[R]], Examined[R]] = lambda db, pinned: Examined(pinned.request)
    #: Adds to an assignment what takes too long for a claim's transaction, and can be looked up at any time.
    complement: Callable[[Database, R, Assignment], Assignment] = lambda db, request, given: given
    #: Has kept, in the transaction that accepts the job, what it was pinned to and would be removed. Raises NotFound.
    keep: Callable[[Session, R], None] = lambda session, request: None
    #: Whether the result names a manifest that was made from the version that is the job's subject: lineage shows it,
    #: and it is kept for a while.
    makes_model: bool = False
    #: Whether the result shows rows of its dataset, which its field `data` names: it is removed some days later, or
    #: when the namespace has given up the rows.
    shows_rows: bool = False
    #: The parts of a result that may be so long that lists of jobs leave them out.
    long_parts: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Its name in requests and rows."""
        return str(self.request.model_fields["kind"].default)


class Mismatch(NamedTuple):
    """One thing that is not as asked for."""

    #: The field, as the job's request or the record names it.
    field: str
    asked: Any
    handed_in: Any


def require_none(differences: Iterable[Mismatch]) -> None:
    """Raise Verification if a result is not what was asked for; the first difference is named."""
    found = next(iter(differences), None)
    if found is not None:
        raise Verification(
            f"the result is not what the job asked for: {found.field} is {_shown(found.handed_in)}, not "
            f"{_shown(found.asked)}; run the job as it was submitted, with a worker of this release",
            param=found.field,
        )


def _shown(value: Any) -> str:
    shown = ascii(value) if not isinstance(value, str) else ascii(value)[1:-1]
    return shown if len(shown) <= 80 else f"{shown[:79]}…"


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
