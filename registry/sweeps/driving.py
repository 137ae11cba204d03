"""Takes the steps of sweeps: proposes members, submits their jobs, chooses, publishes, ends.

Each step looks at what is stored, works out what comes next while nobody waits, and then does one transaction that locks the
sweep and checks that this is still so. So any number of processes may drive a sweep at once, and one that is killed between two
steps leaves what the next one continues from. A sweep is driven when one of its jobs has ended, by the reconciler, and in an
embedded registry by a runner that has nothing else to do. Only the latter two choose and publish, which takes longer than
somebody who hands in a job should wait: one process of a server leads, and each process chooses for one sweep at a time.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from registry.db.database import Database
from registry.db.statements import insert_if_new
from registry.db.types import db_epoch_s
from registry.errors import (
    Invalid,
    InvalidBase,
    QuotaExceeded,
    RegistryError,
    Unavailable,
)
from registry.jobs.base_contents import ChangedError
from registry.jobs.lifecycle import UNFINISHED
from registry.jobs.models import Job
from registry.jobs.service import Jobs
from registry.principal import Principal
from registry.sweeps.deciding.tried import alike
from registry.sweeps.ending import WAITS, SweepEnding
from registry.sweeps.lifecycle import MOVING, lock_in, move
from registry.sweeps.members import SweepStanding, note_scores, standing_of, trained_s
from registry.sweeps.models import Member, Sweep
from registry.sweeps.proposing import setting_of, tried_in
from registry.sweeps.requests import member_submission, needs_scoring, scoring_submission, submission_of
from registry.usage.charging import charge, record_bytes
from sdk.schemas.sweeps import SweepState, SweepSubmission
from sdk.schemas.wire import digest_of

#: How many steps are taken for one caller, who came for something else; the end of each member takes further ones.
_AT_ONCE = 64
#: How many sweeps the reconciler looks at in a run.
_SWEEPS = 1000

_log = logging.getLogger(__name__)


class Driver:
    """Takes the steps of sweeps."""

    def __init__(self, db: Database, jobs: Jobs, ending: SweepEnding, *, acting: Callable[[str], Principal]) -> None:
        """`acting` returns who has a `Principal.owner`, with the roles that they have now, or raises Unauthenticated."""
        self._db = db
        self._jobs = jobs
        self._ending = ending
        self._acting = acting
        self._choosing = threading.Lock()

    def ended(self, sweep: str) -> None:
        """Go on with a sweep, one of whose jobs has ended, until all members have."""
        self.advance(sweep)

    def go_on(self) -> int:
        """Go on with every sweep, to its end; return how many steps were taken."""
        moving = select(Sweep.id).where(Sweep.state.in_(MOVING)).order_by(Sweep.created_at).limit(_SWEEPS)
        with self._db.read() as session:
            found = session.scalars(moving).all()
        taken = 0
        for sweep_id in found:
            try:
                taken += self.advance(sweep_id, ends=True)
            except Unavailable:
                raise
            except Exception:  # noqa: BLE001 - one sweep must not keep the others from going on
                _log.exception("sweep %s can't go on", sweep_id)
        return taken

    def is_left(self) -> bool:
        """Whether a sweep moves, and has no job that waits or runs: whoever drove it was killed."""
        driven = exists().where(Job.sweep == Sweep.id, Job.state.in_(UNFINISHED))
        with self._db.read() as session:
            left = select(Sweep.id).where(Sweep.state.in_(MOVING), ~driven).limit(1)
            return session.scalars(left).first() is not None

    def advance(self, sweep_id: str, *, ends: bool = False) -> int:
        """Take the steps of a sweep that can be taken now; return how many. Only with `ends` is the best chosen and published."""
        for taken in range(_AT_ONCE):
            if not self._step(sweep_id, ends):
                return taken
        return _AT_ONCE

    def _step(self, sweep_id: str, ends: bool) -> bool:
        """Take the next step of a sweep; say whether another one may follow at once."""
        with self._db.read() as session:
            sweep = session.get(Sweep, sweep_id)
            if sweep is None or sweep.state not in MOVING:
                return False
        try:
            asked = submission_of(sweep)
            with self._db.read() as session:
                standing, why_over = standing_of(session, sweep_id), _why_over(session, sweep, asked)
            if sweep.state == SweepState.CHOOSING:
                return ends and self._end(sweep, asked)
            return self._begin(sweep, asked, standing, why_over)
        except ChangedError:
            # What a member names was changed at this very moment.
            return True
        except (QuotaExceeded, Unavailable, InvalidBase) as error:
            self._say(sweep, f"{WAITS}{error.message}")
            return False
        except RegistryError as error:
            # Nothing that comes again of its own accord.
            self._pause(sweep, error)
            return False

    def _end(self, sweep: Sweep, asked: SweepSubmission) -> bool:
        """Take a step of the end, unless another thread takes one of any sweep."""
        if not self._choosing.acquire(blocking=False):
            return False
        try:
            return self._ending.step(sweep, asked.request, acting=self._acting)
        finally:
            self._choosing.release()

    # Members.

    def _begin(self, sweep: Sweep, asked: SweepSubmission, standing: SweepStanding, why_over: str | None) -> bool:
        """Propose a trial, submit the job of a member, or choose, once all have ended."""
        if needs_scoring(asked.request):
            if standing.unread is not None:
                return self._read_scores(sweep, standing.unread)
            if standing.unscored is not None:
                return self._score(sweep, asked, standing.unscored)
        room = standing.training < asked.request.parallel
        over = why_over is not None or standing.trials * asked.request.seeds >= asked.request.most_members
        if why_over is None and standing.waiting is not None:
            return room and self._submit(sweep, asked, standing.waiting)
        if not over:
            return room and self._propose(sweep, asked, standing.trials + 1)
        if standing.training or standing.scoring:
            return False
        with self._db.write() as session:
            locked = lock_in(session, sweep.id, SweepState.RUNNING)
            if locked is None or standing_of(session, sweep.id) != standing:
                return True
            move(locked, SweepState.CHOOSING)
            locked.message = why_over
        return True

    def _propose(self, sweep: Sweep, asked: SweepSubmission, trial: int) -> bool:
        """Add the members of a trial; whoever else does so at the same moment finds them."""
        request = asked.request
        with self._db.read() as session:
            past = [] if request.sample == "grid" else tried_in(session, sweep.id, request)
        setting = setting_of(request, past, seed=sweep.id, trial=trial)
        same = alike(setting, past)
        with self._db.write() as session:
            if lock_in(session, sweep.id, SweepState.RUNNING) is None:
                return True
            for more in range(request.seeds if same is None else 1):
                size_bytes = record_bytes(setting)
                new = insert_if_new(
                    session,
                    Member,
                    sweep=sweep.id,
                    number=(trial - 1) * request.seeds + more + 1,
                    trial=trial,
                    setting=setting,
                    seed=request.training.spec.seed + more,
                    same_as=None if same is None else same.trial,
                    scored=False,
                    surplus_steps=0,
                    record_bytes=size_bytes,
                )
                if not new:
                    break
                charge(session, sweep.namespace, records=size_bytes)
        return True

    def _submit(self, sweep: Sweep, asked: SweepSubmission, number: int) -> bool:
        """Submit the job of a member."""
        who = self._acting(sweep.actor)
        with self._db.read() as session:
            member = session.get_one(Member, (sweep.id, number))
        try:
            submission = member_submission(asked, sweep.id, member)
            prepared = self._jobs.prepare(submission, who=who)
            with self._db.write() as session:
                locked = lock_in(session, sweep.id, SweepState.RUNNING)
                standing = standing_of(session, sweep.id)
                if locked is None or standing.waiting != number or standing.training >= asked.request.parallel:
                    return True
                about = {"request_digest": digest_of(submission.model_dump(mode="json")), "sweep": sweep.id}
                job = self._jobs.add(session, prepared, who, sweep_number=number, **about)
                session.get_one(Member, (sweep.id, number)).job = job.id
                locked.message = None
        except InvalidBase:
            raise
        except Invalid as error:
            return self._refuse(sweep, number, error)
        self._jobs.announce([job])
        return True

    def _score(self, sweep: Sweep, asked: SweepSubmission, number: int) -> bool:
        """Submit the job that scores what a member has made."""
        who = self._acting(sweep.actor)
        submission = scoring_submission(asked, sweep.id, number)
        try:
            prepared = self._jobs.prepare(submission, who=who)
            with self._db.write() as session:
                if lock_in(session, sweep.id, SweepState.RUNNING) is None:
                    return True
                member = session.get_one(Member, (sweep.id, number), populate_existing=True)
                if member.scoring is not None:
                    return True
                about = {"request_digest": digest_of(submission.model_dump(mode="json")), "sweep": sweep.id}
                job = self._jobs.add(session, prepared, who, **about)
                member.scoring = job.id
        except InvalidBase:
            raise
        except Invalid as error:
            return self._refuse_scoring(sweep, number, error)
        self._jobs.announce([job])
        return True

    def _refuse_scoring(self, sweep: Sweep, number: int, error: Invalid) -> bool:
        """Note why a member can't be scored; the others go on."""
        with self._db.write() as session:
            if lock_in(session, sweep.id, SweepState.RUNNING) is not None:
                member = session.get_one(Member, (sweep.id, number), populate_existing=True)
                if member.scoring is None:
                    member.scored, member.reason = True, f"could not be scored: {error.message}"
        return True

    def _read_scores(self, sweep: Sweep, number: int) -> bool:
        """Note what the job has found that scored a member."""
        with self._db.write() as session:
            if lock_in(session, sweep.id, SweepState.RUNNING) is None:
                return True
            member = session.get_one(Member, (sweep.id, number), populate_existing=True)
            if not member.scored:
                note_scores(session, sweep, member)
        return True

    def _refuse(self, sweep: Sweep, number: int, error: Invalid) -> bool:
        """Note why a member can't be trained; the others go on."""
        with self._db.write() as session:
            if lock_in(session, sweep.id, SweepState.RUNNING) is not None:
                member = session.get_one(Member, (sweep.id, number), populate_existing=True)
                if member.job is None:
                    member.reason = error.message
        return True

    # What becomes of it.

    def _say(self, sweep: Sweep, message: str) -> None:
        """Note why nothing more is done for now."""
        if sweep.message == message:
            return
        with self._db.write() as session:
            locked = lock_in(session, sweep.id, SweepState(sweep.state))
            if locked is not None:
                locked.message = message

    def _pause(self, sweep: Sweep, error: RegistryError) -> None:
        """Begin nothing more until somebody who may do it lets it go on."""
        with self._db.write() as session:
            locked = lock_in(session, sweep.id, SweepState(sweep.state))
            if locked is not None:
                move(locked, SweepState.PAUSED)
                locked.message = f"what {locked.created_by} asked for can't go on: {error.message}; then: adapterctl sweep go {locked.id}"


def _why_over(session: Session, sweep: Sweep, asked: SweepSubmission) -> str | None:
    """Say why no further member begins, if a budget is used up."""
    request = asked.request
    if request.max_time_s is not None:
        passed_s = (session.scalar(select(db_epoch_s())) or 0.0) - sweep.began_at_s
        if passed_s > request.max_time_s:
            return f"no further member began, since the sweep has taken the {request.max_time_s:g} s that it may take"
    if request.max_gpu_hours is not None:
        hours = trained_s(session, [sweep.id])[sweep.id] / 3600
        if hours >= request.max_gpu_hours:
            return f"no further member began, since members have trained for {hours:.3g} of {request.max_gpu_hours:g} hours"
    return None
