"""Submits the evaluations that policies ask for, once each, with low priority, up to the cap."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.catalog.versions.finding import find_adapter
from registry.db.database import Database
from registry.db.types import utc_now
from registry.errors import Conflict, Forbidden, Invalid, InvalidBase, NotFound, QuotaExceeded
from registry.jobs.base_contents import ChangedError
from registry.jobs.lifecycle import UNFINISHED
from registry.jobs.models import Job
from registry.jobs.service import Jobs
from registry.principal import SYSTEM
from registry.promotion import generations
from registry.promotion.automatic.candidates import Sight
from registry.promotion.automatic.lifecycle import AutomaticState
from registry.promotion.automatic.noting import row_of
from registry.promotion.generations import scopes_of
from registry.promotion.models import AutomaticRow, TriedRows
from registry.promotion.shared_rows import ReadRows, RowSharing, related
from registry.promotion.tries import tried_of
from sdk.schemas.job_requests import EvaluationRequest
from sdk.schemas.jobs import JobState, JobSubmission, JobView
from sdk.schemas.wire import digest_of

#: Behind whatever anybody else asks for.
PRIORITY = -100
#: So many jobs score one version for one set of policies.
MOST_JOBS = 20


@dataclass(frozen=True)
class Submitted:
    """What became of the evaluations that are missing."""

    #: How many have a job now that had none.
    count: int = 0
    #: Why none was submitted, if that may change.
    waits: str | None = None
    #: Why there will be no scores.
    failed: str | None = None


#: The digest of a dataset that rules name → those on which what was tried counts for it.
Families = Mapping[str, Collection[str]]


class Scoring:
    """Submits evaluations."""

    def __init__(self, db: Database, jobs: Jobs, sharing: RowSharing) -> None:
        self._db = db
        self._jobs = jobs
        self._sharing = sharing

    def families(self, sight: Sight) -> Families:
        """Return which rows count together for the caps of policies. Raises Unavailable if that is not found out yet."""
        capped = [policy.document for policy in sight.policies if policy.document.cap is not None]
        if not capped:
            return {}
        with self._db.read() as session:
            tried = [ReadRows(one.dataset, one.columns) for one in tried_of(session, sight.candidate.adapter)]
        return {
            rule.data: {rule.data, *related(self._sharing.of_judged(rule, tried))}
            for document in capped
            for rule in document.require
        }

    def over_cap(self, session: Session, sight: Sight, families: Families) -> str | None:
        """Say why no further version is tried on the same rows; None: one may be."""
        candidate = sight.candidate
        coming = _being_scored(session, sight)
        for policy in sight.policies:
            if (cap := policy.document.cap) is None:
                continue
            for rule in policy.document.require:
                tried = tried_digests(session, candidate.adapter, families[rule.data]) | coming
                if len(tried | {candidate.digest}) > cap:
                    name = rule.data_name or rule.data[:12]
                    return (
                        f"{len(tried - {candidate.digest})} other versions were tried on the rows of {name}, and the cap of "
                        f"{policy.scope} for {candidate.alias} is {cap}; give fresh rows or a higher cap: adapterctl policy set "
                        f"{policy.scope} FILE"
                    )
        return None

    def submit(self, sight: Sight, missing: Sequence[EvaluationRequest], families: Families) -> Submitted:
        """Submit those of the missing evaluations that policies ask the registry for, and that it has not submitted before.

        Raises ChangedError if something that decides has changed, Unavailable.
        """
        wanted = [request for request in missing if request.data in sight.scored_rows]
        if not wanted:
            return Submitted()
        with self._db.read() as session:
            earlier = _jobs_of(session, sight.row)
        asked = {job.request_digest for job in earlier}
        fresh = [request for request in wanted if digest_of(_submission(request).model_dump(mode="json")) not in asked]
        if not fresh or len(earlier) >= MOST_JOBS:
            return Submitted(failed=_why_failed(earlier))
        count = 0
        try:
            for request in fresh[: MOST_JOBS - len(earlier)]:
                job = self._add(sight, request, families)
                count += 1
                if job is not None:
                    self._jobs.announce([job])
        except (QuotaExceeded, InvalidBase, Conflict) as error:
            # Room, a worker or a base may come.
            return Submitted(count, waits=f"waits: {error.message}")
        except (Invalid, Forbidden, NotFound) as error:
            return Submitted(count, failed=f"it can't be scored: {error.message}")
        return Submitted(count)

    def _add(self, sight: Sight, request: EvaluationRequest, families: Families) -> JobView | None:
        """Add a job and note it in one transaction; None if another one will make the same scores.

        Raises ChangedError, and what adding jobs does.
        """
        submission = _submission(request)
        asked = digest_of(submission.model_dump(mode="json"))
        prepared = self._jobs.prepare(submission, who=SYSTEM)
        with self._db.write() as session:
            # One version of an adapter after another, so that together they stay within a cap.
            find_adapter(session, sight.candidate.adapter, SYSTEM, lock=True)
            scopes = scopes_of(sight.candidate.adapter, sight.candidate.namespace)
            if generations.read(session, scopes) != sight.generations:
                raise ChangedError
            row = row_of(session, sight)
            if row is None or asked in {job.request_digest for job in _jobs_of(session, row)}:
                raise ChangedError
            if sight.moves and self.over_cap(session, sight, families) is not None:
                raise ChangedError
            # Another alias may wait for the same scores.
            namespace = sight.candidate.namespace
            same = select(Job.id).where(
                Job.namespace == namespace,
                Job.state.in_(UNFINISHED),
                Job.request_digest == asked,
                Job.owner == SYSTEM.owner,
            )
            shared = session.scalars(same.limit(1)).first()
            job = None if shared is not None else self._jobs.add(session, prepared, SYSTEM, request_digest=asked)
            row.jobs = [*row.jobs, *([] if job is None else [job.id]), *([] if shared is None else [shared])]
            row.state, row.at, row.message = AutomaticState.SCORING.value, utc_now(), None
            row.generations = list(sight.generations)
        return job


def tried_digests(session: Session, adapter: str, datasets: Collection[str]) -> set[str]:
    """Return the bytes of an adapter that were tried on the rows of any of these datasets."""
    tried = select(TriedRows.digest).where(TriedRows.adapter == adapter, TriedRows.dataset_digest.in_(sorted(datasets)))
    return set(session.scalars(tried.distinct()))


def _submission(request: EvaluationRequest) -> JobSubmission:
    return JobSubmission(request=request, priority=PRIORITY)


def _jobs_of(session: Session, row: AutomaticRow | None) -> Sequence[Job]:
    if row is None or not row.jobs:
        return []
    return session.scalars(select(Job).where(Job.id.in_(row.jobs)).order_by(Job.created_at)).all()


def _being_scored(session: Session, sight: Sight) -> set[str]:
    """The bytes of an adapter whose scores are on their way."""
    rows = select(AutomaticRow.digest).where(
        AutomaticRow.adapter_pk == sight.candidate.adapter_pk, AutomaticRow.state == AutomaticState.SCORING.value
    )
    return set(session.scalars(rows))


def _why_failed(jobs: Sequence[Job]) -> str:
    """Say why scores are missing although jobs were to make them."""
    for job in jobs:
        if job.state != JobState.SUCCEEDED:
            why = f": {job.message}" if job.message else ""
            return f"the job {job.id} that was to score it is {job.state}{why}; evaluate it with: adapterctl eval"
    ids = ", ".join(job.id for job in jobs) or "are gone"
    return f"the jobs that were to score it ({ids}) made no scores that count; see: adapterctl jobs show ID"
