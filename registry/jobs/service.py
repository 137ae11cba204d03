"""What clients do with jobs: submit them, look at them, cancel them."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any, NamedTuple, Unpack

from sqlalchemy import and_, func, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from registry.access.audit.service import record
from registry.access.keys import used_for_another
from registry.db.database import Database
from registry.db.paging import Paged, Paging, page_of
from registry.db.stored_json import read_stored, table
from registry.db.types import db_now
from registry.errors import Conflict, Invalid
from registry.jobs import events
from registry.jobs.advice import advised_request
from registry.jobs.attempts import TimeLimits, count_end, lapsed
from registry.jobs.base_contents import ChangedError
from registry.jobs.checkpoint_pins import pin_again
from registry.jobs.fair_share import due, most_priority, require_priority
from registry.jobs.followers import Followers
from registry.jobs.kinds.evaluation import EVALUATION
from registry.jobs.kinds.known import KINDS, rules_of
from registry.jobs.kinds.rules import Acceptable, JobKindRules, acceptable
from registry.jobs.lifecycle import FINAL, UNFINISHED, find_job, find_job_by_beginning, move
from registry.jobs.models import Job
from registry.jobs.needs import of_tracker, our_fields, require_installed, require_scorers, written
from registry.jobs.peaks import peak_of
from registry.jobs.pins import Pinned, require_data
from registry.jobs.present import forecast_of, present, present_attempts, present_in_queue
from registry.jobs.requirements import no_worker, why_no_worker
from registry.jobs.tracking import continued_runs, require_libraries, require_trackers, trackers_of
from registry.jobs.workers import QUEUES
from registry.principal import Principal
from registry.queue import Queue
from registry.usage.charging import charge, limits_of, record_bytes, require_room, submit_alone
from sdk.schemas.failures import FailureReason
from sdk.schemas.job_requests import EvaluationRequest, used_fields
from sdk.schemas.jobs import AttemptView, JobState, JobSubmission, JobView
from sdk.schemas.wire import digest_of

#: Of how many waiting jobs each queue is reminded at once; a worker that comes for one continues with the others.
_REMINDERS = 16
#: How many times a job is pinned and examined if the meaning of its names changes meanwhile.
_TRIES = 3
#: What a job that is tried again takes over from the earlier one.
_REPEATED = (
    "namespace",
    "kind",
    "subject",
    "queue",
    "needs_device",
    "needs_memory_bytes",
    "least_card_bytes",
    "least_machine_bytes",
    "forecast",
    "known_fields",
    "needs",
    "timeout_s",
    "base_fingerprint",
    "runs",
)


class PreparedJob(NamedTuple):
    """A job that was examined, and may be added as long as its names mean what they were pinned to."""

    submission: JobSubmission
    rules: JobKindRules[Any]
    pinned: Pinned[Any]
    accepted: Acceptable


class Jobs:
    """The service over the table of jobs, for clients."""

    def __init__(self, db: Database, queue: Queue, *, embedded: bool, limits: TimeLimits, followers: Followers) -> None:
        self._db = db
        self._queue = queue
        self._limits = limits
        self._followers = followers
        #: In embedded mode client and worker share one machine, so every folder is a shared path.
        self._embedded = embedded

    def submit(self, *, submission: JobSubmission, who: Principal, idempotency_key: str | None = None) -> JobView:
        """Accept a job, its refs pinned to exact versions; then tell the queue.

        The same key with the same request gives the same job; with another request it raises Conflict. Raises
        NotFound for a base, dataset or ref, Forbidden, InvalidBase for a base that no worker can reach, DoesNotFit for a job
        that every worker is too small for, QuotaExceeded, Conflict if what it names keeps changing, and Unavailable if it
        requires a worker and none can run it.
        """
        if getattr(submission.request, "sweep", None) is not None:
            raise Invalid(
                "only a sweep makes a training its member; leave sweep out, or begin one with: adapterctl sweep",
                param="request.sweep",
            )
        asked = digest_of(submission.model_dump(mode="json"))
        for _ in range(_TRIES):
            try:
                job, fresh = self._accepted(submission, asked, who, idempotency_key)
            except ChangedError:
                continue
            if fresh:
                self.announce([job])
            return job
        raise Conflict("what this job names is being changed at the moment; submit it again", param="spec")

    def announce(self, jobs: Sequence[JobView]) -> None:
        """Tell the queue about jobs that were added, once that is committed."""
        for job in jobs:
            self._queue.announce(job.id, job.queue)

    def _accepted(self, submission: JobSubmission, asked: str, who: Principal, key: str | None) -> tuple[JobView, bool]:
        """Return a job, and whether it is a new one. Raises ChangedError if a name means something else by the time that
        the job was examined.

        What takes long is done while nobody waits: only whether the names still mean the same is looked up again in the
        transaction that accepts the job.
        """
        with self._db.read() as session:
            if (earlier := _answered(session, key, asked, who)) is not None:
                return earlier, False
        prepared = self.prepare(submission, who=who)
        try:
            return self._insert(prepared, asked, who, key)
        except IntegrityError:
            # The same key was used at the same moment: the other call's job is the answer.
            return self._insert(prepared, asked, who, key)

    def prepare(self, submission: JobSubmission, *, who: Principal) -> PreparedJob:
        """Examine what is asked for, outside of any transaction that writes, so that `add` only adds it.

        Raises what `submit` raises, except for what only the transaction knows.
        """
        rules = rules_of(submission.request.kind)
        with self._db.read() as session:
            pinned = rules.pin(session, submission.request, who, self._embedded)
        require_priority(submission.priority, pinned.namespace, who)
        if self._embedded:
            require_installed(pinned.scorers)
            require_libraries(trackers_of(pinned.request))
        return PreparedJob(submission, rules, pinned, acceptable(self._db, rules, submission, pinned))

    def examine(self, submission: JobSubmission, pinned: Pinned[Any], who: Principal) -> None:
        """Examine a job whose names are exact, and which nobody adds now. Raises what `prepare` does, and Conflict if no worker
        has a scorer.
        """
        rules = rules_of(submission.request.kind)
        if self._embedded:
            require_installed(pinned.scorers)
        else:
            with self._db.read() as session:
                require_scorers(session, written(pinned.scorers), who, namespace=pinned.namespace, queue=rules.queue)
        acceptable(self._db, rules, submission, pinned)

    def _insert(self, prepared: PreparedJob, asked: str, who: Principal, key: str | None) -> tuple[JobView, bool]:
        with self._db.write() as session:
            if (earlier := _answered(session, key, asked, who)) is not None:
                return earlier, False
            job = self.add(session, prepared, who, request_digest=asked, submit_key=key)
            waits = why_no_worker(session, session.get_one(Job, job.id), embedded=self._embedded)
            if waits is not None and prepared.submission.require_worker:
                raise no_worker("job", waits)
            return job.model_copy(update={"waits": waits}), True

    def add(self, session: Session, prepared: PreparedJob, who: Principal, **columns: Any) -> JobView:
        """Add a job that was prepared, in the caller's transaction; `announce` it after the commit.

        `columns` are further ones of its row. Raises ChangedError if a name means something else by now, Conflict if no worker
        has what it asks for, QuotaExceeded, which the commit may raise, too.
        """
        submission, rules, pinned, accepted = prepared
        scorers, trackers = self._programs(pinned)
        if rules.pin(session, submission.request, who, self._embedded) != pinned:
            raise ChangedError
        require_scorers(session, written(scorers), who, namespace=pinned.namespace, queue=rules.queue)
        require_trackers(session, written(trackers), namespace=pinned.namespace, queue=rules.queue)
        rules.keep(session, accepted.request)
        job = self._new(
            session,
            who,
            subject=pinned.subject,
            priority=submission.priority,
            known_fields=0 if trackers else -our_fields() if scorers else our_fields(),
            runs=continued_runs(session, accepted.request, pinned.namespace),
            timeout_s=self._limits.of_submission(submission.timeout_s),
            base_fingerprint=None if pinned.base is None else pinned.base.fingerprint,
            **self._asked_of_workers(prepared),
            **columns,
        )
        return present(job).model_copy(update={"forecast": forecast_of(job)})

    def _programs(self, pinned: Pinned[Any]) -> tuple[Sequence[str], list[str]]:
        """Return the scorers and trackers that a job's worker must have. A runner that gets nothing ends, so it gets the job,
        even if what it asks for is gone by then.
        """
        if self._embedded:
            return (), []
        return pinned.scorers, [of_tracker(name) for name in trackers_of(pinned.request)]

    def _asked_of_workers(self, prepared: PreparedJob) -> dict[str, Any]:
        """Return the columns of a job by which a worker may have it or not."""
        scorers, trackers = self._programs(prepared.pinned)
        return {
            "kind": prepared.rules.name,
            "namespace": prepared.pinned.namespace,
            "queue": prepared.rules.queue,
            "needs": written([*used_fields(prepared.accepted.request), *scorers, *trackers]),
            **prepared.accepted.columns,
        }

    def why_no_worker(self, prepared: PreparedJob) -> str | None:
        """Say why none of the workers that are there now could run a job that isn't added yet; None if one could."""
        with self._db.read() as session:
            return why_no_worker(session, Job(**self._asked_of_workers(prepared)), embedded=self._embedded)

    def _new(self, session: Session, who: Principal, **values: Any) -> Job:
        """Add a queued job. Raises QuotaExceeded, or the commit does."""
        _require_room(session, values["namespace"])
        size_bytes = record_bytes(values["request"], values.get("forecast"))
        charge(session, values["namespace"], records=size_bytes)
        job = Job(
            id=secrets.token_hex(6),
            state=JobState.QUEUED,
            created_by=who.name,
            owner=who.owner,
            created_at=db_now(session),
            record_bytes=size_bytes,
            **values,
        )
        session.add(job)
        session.flush()
        events.record_state(session, job)
        after = {"kind": job.kind, "about": job.subject}
        record(session, who, "job.submit", job.namespace, job.id, after=after)
        return job

    def retry(
        self, job_id: str, *, advice: bool = False, who: Principal, idempotency_key: str | None = None
    ) -> JobView:
        """Submit a job that ended without a result again; a training resumes from its last checkpoint.

        With `advice`, a training that has ended is run again from the beginning, changed as its own numbers advise. The same
        key gives the same new job. Raises NotFound, also if rows or a checkpoint that it began with have gone since
        or the caller may not see them, Conflict for a job that has a result or has not ended, or has no advice, QuotaExceeded.
        """
        try:
            job, fresh = self._retried(job_id, advice, who, idempotency_key)
        except IntegrityError:
            # The same key was used at the same moment: the other call's job is the answer.
            job, fresh = self._retried(job_id, advice, who, idempotency_key)
        if fresh:
            self._queue.announce(job.id, job.queue)
        return job

    def _retried(self, job_id: str, advice: bool, who: Principal, key: str | None) -> tuple[JobView, bool]:
        asked = digest_of({"retry_of": job_id, **({"advice": True} if advice else {})})
        with self._db.write() as session:
            if (answered := _answered(session, key, asked, who)) is not None:
                return answered, False
            earlier = find_job(session, job_id, who, action="write")
            if earlier.sweep is not None:
                raise Conflict(
                    f"job {job_id} belongs to sweep {earlier.sweep}, whose members are not tried again; train its setting by itself "
                    "with: adapterctl train",
                    param="job",
                )
            repeated = {name: getattr(earlier, name) for name in _REPEATED}
            if advice:
                advised = advised_request(earlier)
                request = advised.model_dump(mode="json")
                # A worker that doesn't know an option that is new to the job would ignore it.
                repeated["needs"] = written(used_fields(advised))
            elif earlier.state not in (JobState.FAILED, JobState.CANCELLED):
                raise Conflict(
                    f"job {job_id} is {earlier.state}; only a failed or cancelled one is tried again", param="job"
                )
            else:
                request = table(earlier.request)
            require_data(session, request, rules_of(earlier.kind).datasets, who, earlier.namespace)
            if not advice:
                request = pin_again(session, earlier, request, who)
                if earlier.kind == EVALUATION.name:
                    EVALUATION.keep(session, read_stored(EvaluationRequest, request, of=f"the request of job {job_id}"))
            job = self._new(
                session,
                who,
                request=request,
                request_digest=asked,
                submit_key=key,
                retry_of=job_id,
                # Somebody else may have given it a higher priority than the caller may.
                priority=min(earlier.priority, most_priority(earlier.namespace, who)),
                **repeated,
            )
            return present(job), True

    def get(self, job_id: str, *, who: Principal) -> JobView:
        """Return a job, also by the beginning of its id. Raises NotFound, Invalid for one that several have."""
        with self._db.read() as session:
            job = find_job_by_beginning(session, job_id, who)
            (found,) = present_in_queue(session, [job])
            return found.model_copy(update={"forecast": forecast_of(job), "peak": peak_of(session, job, who)})

    def attempts(self, job_id: str, *, who: Principal) -> list[AttemptView]:
        """The attempts at a job, oldest first. Raises NotFound."""
        with self._db.read() as session:
            find_job(session, job_id, who)
            return present_attempts(session, job_id)

    def list(
        self, *, state: str | None, queue: str | None = None, who: Principal, **page: Unpack[Paging]
    ) -> Paged[JobView]:
        """The jobs that the caller may see, newest first."""
        query = select(Job).where(who.within(Job.namespace))
        if state is not None:
            query = query.where(Job.state == state)
        if queue is not None:
            query = query.where(Job.queue == queue)
        with self._db.read() as session:
            return page_of(
                session,
                query,
                Job.created_at,
                Job.id,
                views=lambda jobs: [_without_long_parts(view) for view in present_in_queue(session, jobs)],
                weight=Job.taken_bytes,
                **page,
            )

    def cancel(self, job_id: str, *, who: Principal) -> JobView:
        """Cancel a queued job at once; ask the worker of a running one to stop. One that is cancelled, or was asked, stays as it is.

        Raises NotFound, and Conflict for one that has ended otherwise.
        """
        with self._db.write() as session:
            job = self.cancel_within(session, job_id, who)
        self._followers.tell(job)
        return present(job)

    def cancel_within(self, session: Session, job_id: str, who: Principal) -> Job:
        """Cancel a job in the caller's transaction. Raises what `cancel` does."""
        find_job(session, job_id, who, action="write")
        # While holding the lock, because a worker may claim the job or give it back at this moment.
        job = session.get_one(Job, job_id, with_for_update=True, populate_existing=True)
        before = job.state
        if before == JobState.CANCELLED or (before == JobState.RUNNING and job.cancel_requested):
            return job
        if before in FINAL:
            raise Conflict(
                f"job {job_id} has {before} and can't be cancelled; see its result with: adapterctl jobs show {job_id}",
                param="job",
            )
        job.cancel_requested = True
        if before == JobState.QUEUED:
            move(job, JobState.CANCELLED)
            job.reason, job.finished_at = FailureReason.CANCELLED, db_now(session)
            session.flush()
            events.record_state(session, job)
            count_end(session, job)
        record(session, who, "job.cancel", job.namespace, job.id, before={"state": before})
        return job

    def remind(self) -> int:
        """Tell the queue again about the first waiting jobs, which it may have forgotten; return how many."""
        with self._db.read() as session:
            first = [
                row
                for queue in QUEUES
                for row in session.execute(
                    select(Job.id, Job.queue)
                    .where(Job.state == JobState.QUEUED, Job.queue == queue, due())
                    .order_by(Job.priority.desc(), Job.created_at)
                    .limit(_REMINDERS)
                )
            ]
        return self._queue.remind(first)

    def revive(self) -> None:
        """Have the queue make sure that somebody works, if a job may be claimed or its worker fell silent, or a sweep was left
        without any job.

        A job that runs, or will be tried again later, is no work for anybody now: those who follow it call this again.
        """
        given = or_(and_(Job.state == JobState.QUEUED, due()), lapsed())
        with self._db.read() as session:
            found = session.scalars(select(Job.id).where(given).limit(1)).first()
        if found is not None or self._followers.wait():
            self._queue.revive()


def _answered(session: Session, key: str | None, asked: str, who: Principal) -> JobView | None:
    """The job with which a key was answered already. Raises Conflict if that was for another request."""
    if key is None:
        return None
    earlier = session.scalars(select(Job).where(Job.owner == who.owner, Job.submit_key == key)).first()
    if earlier is None:
        return None
    if earlier.request_digest != asked or not who.may("read", earlier.namespace):
        raise used_for_another()
    return present(earlier)


def unfinished(session: Session, namespace: str) -> int:
    """How many jobs of a namespace wait or run."""
    waiting = select(func.count()).select_from(Job).where(Job.namespace == namespace, Job.state.in_(UNFINISHED))
    return session.scalar(waiting) or 0


def _without_long_parts(view: JobView) -> JobView:
    rules = KINDS.get(view.kind)
    if rules is None or not rules.long_parts or view.result is None:
        return view
    kept = {name: part for name, part in view.result.items() if name not in rules.long_parts}
    return view.model_copy(update={"result": kept or None})


def _require_room(session: Session, namespace: str) -> None:
    limit = limits_of(session, namespace).max_jobs
    if limit is not None:
        submit_alone(session, namespace)
        require_room(namespace, "unfinished jobs", unfinished(session, namespace), 1, limit)
