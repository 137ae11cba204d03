"""The end of a sweep: the best is chosen, made a version, and the checkpoints of the others are given up."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence

from sqlalchemy import and_, false, or_, select, update
from sqlalchemy.orm import Session, undefer

from registry.catalog.publishing.publisher import Publisher
from registry.catalog.versions.served_probes import keep_trained
from registry.db.database import Database
from registry.db.types import db_now
from registry.errors import Conflict, Invalid, NotFound, Verification
from registry.jobs.checkpoint_pins import find_checkpoint
from registry.jobs.checkpoints import answers_of, publishable
from registry.jobs.kinds.rules import KeepSeries
from registry.jobs.models import Checkpoint, Job
from registry.principal import Principal
from registry.sweeps.choosing import Contest
from registry.sweeps.lifecycle import lock_in, move
from registry.sweeps.models import Member, Sweep
from registry.sweeps.requests import needs_scoring
from registry.sweeps.row_scores import EvaluatedMembers
from registry.usage.charging import charge, record_bytes
from sdk.schemas.artifacts import SignedManifest
from sdk.schemas.catalog import JobRef
from sdk.schemas.job_requests import CheckpointRef
from sdk.schemas.sweeps import SweepRequest, SweepState
from sdk.schemas.version_records import TrainingRecord

_log = logging.getLogger(__name__)

#: So begins what a sweep says while it can't go on, and tries again.
WAITS = "waits: "


class SweepEnding:
    """Takes the last steps of sweeps."""

    def __init__(
        self, db: Database, publisher: Publisher, scored_rows: EvaluatedMembers, *, keep_series: KeepSeries
    ) -> None:
        self._db = db
        self._publisher = publisher
        self._scored_rows = scored_rows
        self._keep_series = keep_series

    def step(self, sweep: Sweep, request: SweepRequest, *, acting: Callable[[str], Principal]) -> bool:
        """Choose, make the next version, or end; say whether another step follows.

        Raises what publishing raises for somebody who may no longer do it.
        """
        if sweep.winner is None:
            return self._choose(sweep, request)
        with self._db.read() as session:
            number, refused = _to_publish(session, sweep, request), _refused(session, sweep, request)
        if number is None:
            # What could not be made a version stays as a member.
            said = f"members {', '.join(map(str, refused))} could not be made versions" if refused else sweep.message
            return self._end(sweep, said, gives_up=request.publish != "none" and not refused)
        try:
            self._publish(sweep, number, who=acting(sweep.actor))
        except (Verification, Invalid, NotFound) as error:
            why = f"could not be made a version: {error.message}"
            if number == sweep.winner:
                return self._end(sweep, f"member {number} {why}", gives_up=False)
            with self._db.write() as session:
                if lock_in(session, sweep.id, SweepState.CHOOSING) is not None:
                    session.get_one(Member, (sweep.id, number), populate_existing=True).reason = why
        return True

    def _choose(self, sweep: Sweep, request: SweepRequest) -> bool:
        with self._db.read() as session:
            contest = Contest.of(session, sweep, request)
        if not contest.scores:
            # What was trained can still be evaluated.
            trained = any(member.outcome is not None for member in contest.members)
            return self._end(sweep, sweep.message or _why_none(contest, request), gives_up=not trained)
        try:
            rows = self._scored_rows.of(contest) if needs_scoring(request) else contest.losses()
            chosen = contest.ordered(rows) if isinstance(rows, str) else contest.judged(rows)
        except (ArithmeticError, LookupError, ValueError):
            _log.exception("the members of sweep %s can't be compared", sweep.id)
            why = "the scores of its members could not be compared; evaluate them with: adapterctl eval"
            return self._end(sweep, f"{why} sweep:{sweep.id}/NUMBER", gives_up=False)
        said = chosen.verdict.model_dump(mode="json")
        with self._db.write() as session:
            locked = lock_in(session, sweep.id, SweepState.CHOOSING)
            if locked is not None and locked.winner is None:
                locked.verdict, locked.winner = said, chosen.winner
                charge(session, locked.namespace, records=record_bytes(said))
                locked.record_bytes += record_bytes(said)
        return True

    def _publish(self, sweep: Sweep, number: int, *, who: Principal) -> None:
        """Make a version of a member, with the sweep in its lineage; the member names it from then on."""
        with self._db.read() as session:
            query = select(Member).where(Member.sweep == sweep.id, Member.number == number)
            member = session.scalars(query.options(undefer(Member.signature))).one()
            job = session.get_one(Job, member.job)
            row = find_checkpoint(session, CheckpointRef(job=job.id, step=member.step))
            settled, reported, notes = publishable(session, job, row, TrainingRecord())
            made, answers = JobRef(id=job.id, attempt=row.attempt), answers_of(row)
        training = {**(settled.training or {}), **TrainingRecord(sweep=f"{sweep.id}/{number}").flat()}
        signature = None if member.signature is None else SignedManifest.model_validate(member.signature)
        named = settled.model_copy(update={"training": training, "signature": signature})
        publishing = self._publisher.publishing(publication=named, who=who, job=made, reported=reported, notes=notes)
        with publishing as (session, published):
            if lock_in(session, sweep.id, SweepState.CHOOSING) is None:
                raise Conflict(f"sweep {sweep.id} is no longer choosing; see it with: adapterctl sweep show {sweep.id}")
            session.get_one(Member, (sweep.id, number)).ref = published.version.ref
            self._keep_series(session, made, published.version, member.step)
            keep_trained(session, published.version, answers, created_by=job.worker or who.name)

    def _end(self, sweep: Sweep, message: str | None, *, gives_up: bool) -> bool:
        with self._db.write() as session:
            locked = lock_in(session, sweep.id, SweepState.CHOOSING)
            if locked is not None:
                end_within(session, locked, SweepState.ENDED, message)
                if gives_up:
                    give_up(session, locked)
        return False


def _to_publish(session: Session, sweep: Sweep, request: SweepRequest) -> int | None:
    """Return the next member that becomes a version; the best is the last, so that it is the latest one."""
    if request.publish == "none":
        return None
    wanted = select(Member.number).where(Member.sweep == sweep.id, Member.ref.is_(None), Member.outcome == "finished")
    good = and_(Member.loss.is_not(None), Member.reason.is_(None)) if request.publish == "all" else false()
    wanted = wanted.where(or_(Member.number == sweep.winner, good))
    return session.scalars(wanted.order_by(Member.number == sweep.winner, Member.number).limit(1)).first()


def _refused(session: Session, sweep: Sweep, request: SweepRequest) -> Sequence[int]:
    """Return the members that should have become versions, and could not."""
    if request.publish != "all":
        return []
    left = (Member.ref.is_(None), Member.outcome == "finished", Member.reason.is_not(None))
    return session.scalars(select(Member.number).where(Member.sweep == sweep.id, *left).order_by(Member.number)).all()


def _why_none(contest: Contest, request: SweepRequest) -> str:
    """Say why no member is the best."""
    finished = [member.number for member in contest.members if member.outcome == "finished"]
    if not finished or not needs_scoring(request):
        return "no member has a score, so none is the best"
    return (
        f"{len(finished)} members were trained, but none was scored by {request.choose}, so none is the best; evaluate them with:"
        f" adapterctl eval sweep:{contest.sweep.id}/{finished[0]}"
    )


def end_within(session: Session, sweep: Sweep, state: SweepState, message: str | None) -> None:
    """End a sweep whose row the caller has locked."""
    move(sweep, state)
    sweep.message = None if message is None or message.startswith(WAITS) else message
    sweep.finished_at = db_now(session)


def wanting(session: Session, sweeps: Collection[str]) -> set[str]:
    """Lock sweeps, so that none of them gives up its checkpoints until the transaction ends; return those that keep them."""
    query = select(Sweep.id).where(Sweep.id.in_(sweeps), Sweep.kept).order_by(Sweep.id)
    return set(session.scalars(query.with_for_update()))


def give_up(session: Session, sweep: Sweep) -> None:
    """Give up the checkpoints of all members; those that were made versions have their files as such."""
    jobs = select(Member.job).where(Member.sweep == sweep.id, Member.job.is_not(None))
    last = (Checkpoint.job_id.in_(jobs), Checkpoint.kept.is_(False), Checkpoint.expires_at.is_(None))
    session.execute(update(Checkpoint).where(*last).values(expires_at=db_now(session)))
    sweep.kept = False


def forget_members(session: Session, sweep: Sweep) -> None:
    """Give up what a sweep that has ended keeps of its members, except for what is shown of them; its row is locked."""
    give_up(session, sweep)
    for member in session.scalars(select(Member).where(Member.sweep == sweep.id)):
        size_bytes = record_bytes(member.setting, member.metrics)
        charge(session, sweep.namespace, records=size_bytes - member.record_bytes)
        gone = {"row_losses": None, "row_weights": None, "signature": None, "record_bytes": size_bytes}
        for name, value in gone.items():
            setattr(member, name, value)
