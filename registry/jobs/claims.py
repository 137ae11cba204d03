"""What workers do with jobs: claim them, hold them by heartbeats, hand them in.

A job is given out by one conditional UPDATE, which raises its attempt number; a caller whose UPDATE changes no row has
lost the race.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from registry.access.keys import Keyed, keep, kept
from registry.artifacts.uploads import abandon_uploads
from registry.datasets.finding import find_for_job
from registry.db.database import Database
from registry.db.types import db_epoch_s, db_now
from registry.errors import Conflict, RegistryError, StaleAttempt, Unavailable, Unreadable
from registry.jobs import attempts, events
from registry.jobs.attempts import OVERTIME_S, TimeLimits
from registry.jobs.fair_share import find_next, note_served
from registry.jobs.followers import Followers
from registry.jobs.kinds.known import read_request, rules_of
from registry.jobs.kinds.rules import CompletionServices, HandedIn
from registry.jobs.lifecycle import find_job, may_become
from registry.jobs.models import Job
from registry.jobs.pins import digests_in
from registry.jobs.present import present
from registry.jobs.tracking import note_runs, runs_of
from registry.jobs.workers import remember, seen
from registry.principal import Principal
from registry.queue import Queue
from sdk.schemas.failures import FailureReason
from sdk.schemas.jobs import JobState, JobView
from sdk.schemas.work import (
    Assignment,
    BaseSource,
    ClaimRequest,
    Completion,
    Failure,
    Heartbeat,
    HeartbeatReply,
    Release,
)

#: Replaces the digest of the request when its key is kept: everything else in a claim may have changed when it is sent
#: again.
_CLAIM = "claim"
#: How many jobs that can't be given out end in one transaction: so others don't wait longer than that.
_MOST_ENDED = 8
#: How many transactions one claim may take. A worker that gets nothing asks again.
_ROUNDS = 4

_log = logging.getLogger(__name__)


class Claims:
    """The service over the table of jobs, for workers."""

    def __init__(
        self,
        db: Database,
        queue: Queue,
        services: CompletionServices,
        *,
        lease_s: float,
        max_attempts: int,
        limits: TimeLimits,
        followers: Followers,
        asks_when_idle: bool = False,
    ) -> None:
        """With `asks_when_idle`, a worker for whom there is nothing makes sweeps go on: its registry has no process that
        does so.
        """
        self._db = db
        self._queue = queue
        self._services = services
        self._lease_s = lease_s
        self._max_attempts = max_attempts
        self._limits = limits
        self._followers = followers
        self._asks_when_idle = asks_when_idle

    def claim(self, *, claim: ClaimRequest, who: Principal, key: str | None = None) -> Assignment | None:
        """Give a worker the job that suits it best, or None if there is none for it.

        With the `key` of an earlier claim that got a job, it gets the same job with what is left of its lease, and None
        once the lease is over. Raises Conflict if both come at once.
        """
        request = None if key is None else Keyed.of(who, key, _CLAIM)
        self.requeue_expired()
        found = self._claim(claim, request, who)
        if found is None and self._asks_when_idle and self._followers.ask():
            found = self._claim(claim, request, who)
        return None if found is None else rules_of(found.request.kind).complement(self._db, found.request, found)

    def _claim(self, claim: ClaimRequest, request: Keyed | None, who: Principal) -> Assignment | None:
        passed_over: list[str] = []
        for _ in range(_ROUNDS):
            ended: list[Job] = []
            with self._db.write() as session:
                earlier = None if request is None else kept(session, request)
                again = None if earlier is None else self._given(session, *json.loads(earlier), who=who)
                remember(session, claim.worker, who)
                if earlier is not None:
                    found = again
                else:
                    found, ended = self._next(session, claim, passed_over, who)
                if earlier is None and found is not None and request is not None:
                    keep(session, request, json.dumps([found.job, found.attempt]))
            for job in ended:
                self._followers.tell(job)
            if found is not None or len(ended) < _MOST_ENDED:
                return found
            # A namespace whose jobs took up a whole transaction doesn't keep others waiting.
            passed_over += [job.namespace for job in ended]
        return None

    def _next(
        self, session: Session, claim: ClaimRequest, passed_over: Collection[str], who: Principal
    ) -> tuple[Assignment | None, list[Job]]:
        """What a worker is given, and the jobs that were ended instead, because nobody could do them."""
        ended: list[Job] = []
        while len(ended) < _MOST_ENDED:
            job_id = find_next(session, claim, who, passed_over=passed_over)
            if job_id is None:
                break
            won = session.execute(
                update(Job)
                .where(Job.id == job_id, may_become(JobState.RUNNING))
                .values(
                    state=JobState.RUNNING,
                    attempt=Job.attempt + 1,
                    worker=claim.worker.name,
                    lease_until_s=db_epoch_s() + self._lease_s,
                    not_before_s=None,
                    started_at=db_now(session),
                    progress=None,
                )
                .returning(Job.id)
            ).first()
            if won is None:
                continue
            job = session.get_one(Job, job_id, populate_existing=True)
            within_s = self._limits.of_job(job.timeout_s) + OVERTIME_S
            attempts.begin(session, job, claim.worker.name, who, within_s=within_s)
            assignment = self._assignment_or_end(session, job, who)
            if assignment is not None:
                note_served(session, job)
                return assignment, ended
            ended.append(job)
        return None, ended

    def _given(self, session: Session, job_id: str, attempt: int, *, who: Principal) -> Assignment | None:
        """What a claim got when it was sent before, if that is still held.

        Its lease is not renewed: otherwise a worker that never understands the answer would hold the job for ever.
        """
        try:
            job = attempts.hold(session, job_id, attempt, who)
        except StaleAttempt:
            return None
        left_s = (job.lease_until_s or 0.0) - session.execute(select(db_epoch_s())).scalar_one()
        if left_s <= 0:
            return None
        assignment = self._assignment_or_end(session, job, who)
        return None if assignment is None else assignment.model_copy(update={"lease_s": left_s})

    def _assignment_or_end(self, session: Session, job: Job, who: Principal) -> Assignment | None:
        """What a worker is told about a job, or None if nobody could do it: then the job has failed.

        If it stayed in the queue, it would stop every worker.
        """
        try:
            return self._assignment(session, job, who)
        except (SQLAlchemyError, Unavailable):
            raise
        except Unreadable as error:
            reason, message = FailureReason.UNREADABLE, error.message
        except RegistryError as error:
            # Something that it needs has gone since it was submitted.
            reason, message = FailureReason.GONE, error.message
        except Exception:  # noqa: BLE001 - whatever is wrong with one row, the others are to be given out
            _log.exception("job %s can't be given out", job.id)
            reason = FailureReason.UNREADABLE
            message = "this release can't read what is stored of it; submit it again"
        attempts.fail(session, job.id, job.attempt, reason, message, who=who, max_attempts=1)
        return None

    def _assignment(self, session: Session, job: Job, who: Principal) -> Assignment:
        rules = rules_of(job.kind)
        request: Any = read_request(job.kind, job.request, job_id=job.id)
        given = rules.assign(session, request, job)
        return Assignment(
            job=job.id,
            attempt=job.attempt,
            lease_s=self._lease_s,
            namespace=job.namespace,
            request=request,
            base=None if given.base is None else _told_by(who, given.base),
            targets=[target.model_copy(update={"base": _told_by(who, target.base)}) for target in given.targets],
            datasets={
                digest: find_for_job(session, digest, namespace=job.namespace, submitted_at=job.created_at).format
                for _, digest in digests_in(request.model_dump(mode="json"), rules.datasets)
            },
            checkpoint=given.checkpoint,
            timeout_s=self._limits.of_job(job.timeout_s),
            runs=runs_of(job),
        )

    def heartbeat(self, *, job_id: str, beat: Heartbeat, who: Principal) -> HeartbeatReply:
        """Renew the lease and keep what the worker reports. Raises NotFound, StaleAttempt."""
        reported = events.trimmed(beat.events)
        progress = next((event.progress for event in reversed(reported) if event.progress is not None), None)
        with self._db.write() as session:
            values: dict[str, Any] = {"lease_until_s": db_epoch_s() + self._lease_s}
            if progress is not None:
                values["progress"] = progress.model_dump(exclude_none=True)
            held = session.execute(
                update(Job).where(*attempts.held(job_id, beat.attempt, who)).values(**values).returning(Job.id)
            ).first()
            if held is None:
                raise attempts.stale(job_id, beat.attempt)
            job = session.get_one(Job, job_id, populate_existing=True)
            missing = f"there is no job {job.id} for this worker; drop it"
            who.require("work", job.namespace, missing=missing, param="job")
            seen(session, job.worker, who)
            events.record(session, job, reported)
            note_runs(job, beat.runs)
            return HeartbeatReply(cancel=job.cancel_requested, lease_s=self._lease_s)

    def namespace_of(self, job_id: str, *, who: Principal) -> str:
        """Return the namespace that pays for what a worker hands in for a job. Raises NotFound."""
        with self._db.read() as session:
            return find_job(session, job_id, who, action="work").namespace

    def complete(self, *, job_id: str, completion: Completion, who: Principal) -> JobView:
        """Record an attempt's result and its effects, both or neither; if the job was cancelled, neither, and it ends so.

        Raises StaleAttempt, Verification, Invalid, Conflict.
        """
        try:
            job = self._take_in(job_id, completion, who)
        except Conflict:
            dropped = self._drop_if_cancelled(job_id, completion, who)
            if dropped is None:
                raise
            job = dropped
        self._followers.tell(job)
        return present(job)

    def _take_in(self, job_id: str, completion: Completion, who: Principal) -> Job:
        """Record a result and its effects. Raises Conflict if the job was cancelled."""
        with self._db.read() as session:
            job = find_job(session, job_id, who, action="work")
            mine = session.scalar(select(Job.id).where(Job.id == job_id, attempts.claimed_by(who))) is not None
            if not mine or job.attempt != completion.attempt:
                raise attempts.stale(job_id, completion.attempt)
            if job.state in (JobState.SUCCEEDED, JobState.CANCELLED):
                # The first answer was lost; the work is done.
                return job
            if job.state != JobState.RUNNING:
                raise attempts.stale(job_id, completion.attempt)
            attempts.require_wanted(job)
            held = present(job)
        request = read_request(held.kind, held.request, job_id=job_id)
        done = HandedIn(job=held, completion=completion, who=who)
        rules_of(held.kind).complete(self._services, request, done)
        with self._db.read() as session:
            return session.get_one(Job, job_id)

    def _drop_if_cancelled(self, job_id: str, completion: Completion, who: Principal) -> Job | None:
        """End a job that was cancelled before its result was recorded, and give back the room of what was sent for it.

        Return None if nobody has cancelled it. Raises StaleAttempt.
        """
        with self._db.write() as session:
            job = attempts.hold(session, job_id, completion.attempt, who)
            if not job.cancel_requested:
                return None
            abandon_uploads(session, completion.uploads, who)
            message = "it was cancelled before its result was recorded, so nothing of that was kept"
            return attempts.cancel(session, job_id, completion.attempt, message, who=who)

    def fail(self, *, job_id: str, failure: Failure, who: Principal) -> JobView:
        """Record that an attempt ended without a result; the job may be tried again. Raises NotFound, StaleAttempt."""
        with self._db.write() as session:
            find_job(session, job_id, who, action="work")
            reason, message = failure.reason, failure.message
            if reason == FailureReason.CANCELLED:
                job = attempts.cancel(session, job_id, failure.attempt, message, who=who)
            else:
                limit = self._max_attempts
                job = attempts.fail(session, job_id, failure.attempt, reason, message, who=who, max_attempts=limit)
        return self._reminded(job)

    def release(self, *, job_id: str, release: Release, who: Principal) -> JobView:
        """Queue a job again whose worker is shutting down, as if it had not been claimed. Raises NotFound,
        StaleAttempt.
        """
        with self._db.write() as session:
            find_job(session, job_id, who, action="work")
            job = attempts.release(session, job_id, release.attempt, who=who)
        return self._reminded(job)

    def _reminded(self, job: Job) -> JobView:
        if job.state == JobState.QUEUED:
            self._queue.remind([(job.id, job.queue)])
        self._followers.tell(job)
        return present(job)

    def requeue_expired(self) -> int:
        """End each attempt whose worker fell silent or overran its time, and queue the job again if that may help.

        Return how many.
        """
        ended = select(Job.id, Job.attempt, attempts.silent()).where(attempts.lapsed())
        with self._db.read() as session:
            expired = session.execute(ended.limit(1000)).all()
        moved = 0
        for job_id, attempt, is_silent in expired:
            try:
                with self._db.write() as session:
                    if is_silent:
                        job = attempts.lose(session, job_id, attempt, max_attempts=self._max_attempts)
                    else:
                        job = attempts.overrun(session, job_id, attempt)
            except StaleAttempt:
                # A heartbeat, a result or another sweep has come in between.
                continue
            except Unavailable:
                raise
            except Exception:  # noqa: BLE001 - one row must not keep the others from being looked at
                _log.exception("job %s can't be queued again", job_id)
                continue
            moved += 1
            self._reminded(job)
        return moved


def _told_by(who: Principal, base: BaseSource) -> BaseSource:
    """A base as described to a worker: a worker whose facts about it would be refused isn't asked for them."""
    may_say = base.namespace is None or who.may("work", base.namespace)
    return base if may_say else base.model_copy(update={"hashed": True})
