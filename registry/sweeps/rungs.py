"""Whether a member goes on at one of its rungs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.db.database import Database
from registry.errors import Conflict, Invalid
from registry.jobs import attempts
from registry.jobs.checkpoint_pins import training_of
from registry.jobs.lifecycle import find_job
from registry.jobs.models import Job
from registry.principal import Principal
from registry.sweeps.deciding.stopping import halving_goes_on, median_goes_on
from registry.sweeps.models import Member, Rung, Sweep
from registry.sweeps.requests import submission_of
from sdk.schemas.sweeps import RungAnswer, RungReached

#: Each looks at the losses of a rung, in the order in which settings came to it, and at the place of the one that asks.
Rule = Callable[[Sequence[float], int, int], bool]
_RULES: dict[str, Rule] = {"halving": halving_goes_on, "median": median_goes_on}


class Rungs:
    """The service over what members are told at rungs."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def reach(self, job_id: str, *, reached: RungReached, who: Principal) -> RungAnswer:
        """Say whether a member goes on; asked again, also by a later attempt, it is told the same.

        Raises NotFound, StaleAttempt, Invalid for a rung that it doesn't have, Conflict for a job of no sweep.
        """
        with self._db.read() as session:
            job = find_job(session, job_id, who, action="work")
            place = training_of(job).sweep if job.kind == "training" else None
            if place is None:
                raise Conflict(f"job {job_id} is not a member of a sweep; let it go on", param="job")
            if session.scalar(select(Job.id).where(*attempts.held(job_id, reached.attempt, who))) is None:
                raise attempts.stale(job_id, reached.attempt)
            sweep = session.get(Sweep, place.sweep)
            # It never changes, and is long to read.
            rule = None if sweep is None else _RULES.get(submission_of(sweep).request.stop_early)
        if reached.rung >= len(place.rungs):
            raise Invalid(
                f"job {job_id} has {len(place.rungs)} rungs, counted from 0, and none {reached.rung}", param="rung"
            )
        key = (place.sweep, place.number, reached.rung)
        with self._db.write() as session:
            # While it is locked, nobody else comes to a rung: so their order is one.
            if session.scalar(select(Sweep.id).where(Sweep.id == place.sweep).with_for_update()) is None:
                raise Conflict(
                    f"there is no sweep {place.sweep} any more; this worker must drop its member", param="job"
                )
            if (told := session.get(Rung, key)) is not None:
                return RungAnswer(goes_on=told.goes_on)
            came = _came(session, place.sweep, reached.rung)
            trial = session.get_one(Member, (place.sweep, place.number)).trial
            goes_on = rule is None or _goes_on(rule, came, trial, reached)
            names = dict(zip(("sweep", "number", "rung"), key, strict=True))
            about = {"place": len(came), "step": reached.step, "loss": reached.loss, "goes_on": goes_on}
            session.add(Rung(**names, **about))
            return RungAnswer(goes_on=goes_on)


@dataclass(frozen=True)
class _Came:
    """A member that came to a rung: its setting, its loss, and what it was told."""

    trial: int
    loss: float
    goes_on: bool


def _came(session: Session, sweep: str, rung: int) -> list[_Came]:
    """Those that came to a rung, in their order."""
    of = (Member.sweep == Rung.sweep) & (Member.number == Rung.number)
    query = select(Member.trial, Rung.loss, Rung.goes_on).join(Rung, of).order_by(Rung.place)
    return [_Came(*row) for row in session.execute(query.where(Rung.sweep == sweep, Rung.rung == rung))]


def _goes_on(rule: Rule, came: Sequence[_Came], trial: int, reached: RungReached) -> bool:
    """Say whether a member goes on: the first of each setting is judged, and its other seeds are told the same, since a setting
    that has lost a seed can't be compared.
    """
    firsts: dict[int, _Came] = {}
    for one in came:
        firsts.setdefault(one.trial, one)
    if trial in firsts:
        return firsts[trial].goes_on and math.isfinite(reached.loss)
    losses = [*(one.loss for one in firsts.values()), reached.loss]
    return rule(losses, len(losses) - 1, reached.rung)
