"""What clients do with sweeps: begin them, look at them, pause them, let them go on, cancel them."""

from __future__ import annotations

import secrets
from contextlib import suppress
from typing import Unpack

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from registry.access.audit.service import record
from registry.access.keys import used_for_another
from registry.db.database import Database
from registry.db.paging import Paged, Paging, page_of
from registry.db.types import db_epoch_s, db_now
from registry.errors import Conflict
from registry.jobs.requirements import no_worker
from registry.jobs.service import Jobs
from registry.principal import Principal
from registry.sweeps.driving import Driver
from registry.sweeps.ending import end_within, give_up
from registry.sweeps.lifecycle import find_sweep, move
from registry.sweeps.members import unfinished_jobs
from registry.sweeps.models import Sweep
from registry.sweeps.present import present_sweep, present_sweeps
from registry.sweeps.requests import examined_first, needs_scoring, require_sweepable
from registry.sweeps.scoring import require_scorable
from registry.usage.charging import charge, record_bytes
from sdk.schemas.sweeps import SweepState, SweepSubmission, SweepView
from sdk.schemas.wire import digest_of

#: How many sweeps one page of a list has at most.
_MOST_OF_PAGE = 100


class Sweeps:
    """The service over the table of sweeps, for clients."""

    def __init__(self, db: Database, jobs: Jobs, driver: Driver) -> None:
        self._db = db
        self._jobs = jobs
        self._driver = driver

    def submit(self, *, submission: SweepSubmission, who: Principal, idempotency_key: str | None = None) -> SweepView:
        """Begin a sweep; its first members are queued when this returns. The same key gives the same sweep.

        Raises Invalid for what can't be swept over, DoesNotFit if a setting is too large for every worker, Unavailable for a missing
        library, and what submitting a training raises.
        """
        asked = digest_of(submission.model_dump(mode="json"))
        with self._db.read() as session:
            if (earlier := _answered(session, idempotency_key, asked, who)) is not None:
                return earlier
        require_sweepable(submission.request)
        # All names are made exact once, so that every member is trained over the same base on the same rows.
        prepared = [self._jobs.prepare(one, who=who) for one in examined_first(submission)]
        if needs_scoring(submission.request):
            require_scorable(self._db, self._jobs, submission, prepared[0], who)
        waits = next(filter(None, map(self._jobs.why_no_worker, prepared)), None)
        if waits is not None and submission.require_worker:
            raise no_worker("sweep", waits)
        exact = prepared[0].pinned.request.model_copy(update={"spec": submission.request.training.spec})
        request = submission.request.model_copy(update={"training": exact})
        stored = submission.model_copy(update={"request": request}).model_dump(mode="json")
        try:
            with self._db.write() as session:
                if (earlier := _answered(session, idempotency_key, asked, who)) is not None:
                    return earlier
                sweep = Sweep(
                    id=secrets.token_hex(6),
                    namespace=prepared[0].pinned.namespace,
                    adapter=exact.adapter,
                    state=SweepState.RUNNING,
                    submission=stored,
                    submission_digest=asked,
                    submit_key=idempotency_key,
                    owner=who.owner,
                    created_by=who.name,
                    actor=who.owner,
                    created_at=db_now(session),
                    began_at_s=session.scalar(select(db_epoch_s())),
                    most_members=request.most_members,
                    record_bytes=record_bytes(stored),
                )
                session.add(sweep)
                charge(session, sweep.namespace, records=sweep.record_bytes)
                record(session, who, "sweep.begin", sweep.namespace, sweep.id, after={"about": sweep.adapter})
        except IntegrityError:
            # The same key was used at the same moment: the other call's sweep is the answer.
            with self._db.read() as session:
                if (earlier := _answered(session, idempotency_key, asked, who)) is not None:
                    return earlier
            raise
        self._driver.advance(sweep.id)
        self._bring_somebody()
        return self.get(sweep.id, who=who).model_copy(update={"waits": waits})

    def _bring_somebody(self) -> None:
        """Ask for a runner where nobody else would end a sweep that has no job."""
        if self._driver.is_left():
            self._jobs.revive()

    def get(self, sweep_id: str, *, who: Principal) -> SweepView:
        """Return a sweep with its members and its verdict. Raises NotFound."""
        with self._db.read() as session:
            return present_sweep(session, find_sweep(session, sweep_id, who))

    def shown(self, sweep_id: str, *, who: Principal) -> tuple[SweepView, str]:
        """Return a sweep as `get` does, and its namespace. Raises NotFound."""
        with self._db.read() as session:
            sweep = find_sweep(session, sweep_id, who)
            return present_sweep(session, sweep), sweep.namespace

    def list(self, *, state: str | None = None, who: Principal, **page: Unpack[Paging]) -> Paged[SweepView]:
        """The sweeps that the caller may see, newest first, without their members; a page has few, since each is long."""
        page["limit"] = min(page.get("limit", _MOST_OF_PAGE), _MOST_OF_PAGE)
        query = select(Sweep).where(who.within(Sweep.namespace))
        if state is not None:
            query = query.where(Sweep.state == state)
        with self._db.read() as session:
            return page_of(
                session,
                query,
                Sweep.created_at,
                Sweep.id,
                views=lambda sweeps: present_sweeps(session, sweeps),
                weight=Sweep.record_bytes,
                **page,
            )

    def pause(self, sweep_id: str, *, who: Principal) -> SweepView:
        """Begin no further members; those that run go on. A paused sweep stays as it is.

        Raises NotFound, Forbidden, Conflict for one that has ended or is choosing.
        """
        with self._db.write() as session:
            sweep = find_sweep(session, sweep_id, who, action="write", lock=True)
            if sweep.state != SweepState.PAUSED:
                before = sweep.state
                move(sweep, SweepState.PAUSED)
                sweep.message = f"paused by {who.name}"
                record(session, who, "sweep.pause", sweep.namespace, sweep.id, before={"state": before})
        return self.get(sweep_id, who=who)

    def go(self, sweep_id: str, *, who: Principal) -> SweepView:
        """Let a paused sweep go on; from now on its members are submitted for the caller. One that runs stays as it is.

        Raises NotFound, Forbidden, Conflict for one that has ended.
        """
        with self._db.write() as session:
            sweep = find_sweep(session, sweep_id, who, action="write", lock=True)
            if sweep.state not in (SweepState.RUNNING, SweepState.CHOOSING):
                move(sweep, SweepState.RUNNING)
                sweep.message, sweep.actor = None, who.owner
                record(session, who, "sweep.go", sweep.namespace, sweep.id)
        self._driver.advance(sweep_id)
        self._bring_somebody()
        return self.get(sweep_id, who=who)

    def cancel(self, sweep_id: str, *, who: Principal) -> SweepView:
        """Cancel a sweep and its members; a cancelled one stays as it is.

        Raises NotFound, Forbidden, Conflict for one that has ended.
        """
        with self._db.write() as session:
            sweep = find_sweep(session, sweep_id, who, action="write", lock=True)
            if sweep.state != SweepState.CANCELLED:
                before = sweep.state
                end_within(session, sweep, SweepState.CANCELLED, f"cancelled by {who.name}")
                for job_id in unfinished_jobs(session, sweep_id):
                    # One that ends at this moment stays as it is.
                    with suppress(Conflict):
                        self._jobs.cancel_within(session, job_id, who)
                give_up(session, sweep)
                record(session, who, "sweep.cancel", sweep.namespace, sweep.id, before={"state": before})
        return self.get(sweep_id, who=who)


def _answered(session: Session, key: str | None, asked: str, who: Principal) -> SweepView | None:
    """The sweep with which a key was answered already. Raises Conflict if that was for another request."""
    if key is None:
        return None
    earlier = session.scalars(select(Sweep).where(Sweep.owner == who.owner, Sweep.submit_key == key)).first()
    if earlier is None:
        return None
    if earlier.submission_digest != asked or not who.may("read", earlier.namespace):
        raise used_for_another()
    return present_sweep(session, earlier)
