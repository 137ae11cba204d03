"""Whether a member goes on at one of its rungs."""

from __future__ import annotations

from sqlalchemy import select

from registry.db.database import Database
from registry.errors import Conflict, Invalid
from registry.jobs import attempts
from registry.jobs.checkpoint_pins import training_of
from registry.jobs.lifecycle import find_job
from registry.jobs.models import Job
from registry.principal import Principal
from registry.sweeps.deciding.stopping import halving_goes_on, median_goes_on
from registry.sweeps.models import Rung, Sweep
from registry.sweeps.requests import submission_of
from sdk.schemas.sweeps import RungAnswer, RungReached

#: Each looks at the losses of a rung, in the order in which members came to it, and at the place of the one that asks.
_RULES = {"halving": halving_goes_on, "median": median_goes_on}


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
                raise Conflict(f"job {job_id} is no member of a sweep; let it go on", param="job")
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
            came = select(Rung.loss).where(Rung.sweep == place.sweep, Rung.rung == reached.rung).order_by(Rung.place)
            losses = [*session.scalars(came), reached.loss]
            goes_on = rule is None or rule(losses, len(losses) - 1, reached.rung)
            names = dict(zip(("sweep", "number", "rung"), key, strict=True))
            about = {"place": len(losses) - 1, "step": reached.step, "loss": reached.loss, "goes_on": goes_on}
            session.add(Rung(**names, **about))
            return RungAnswer(goes_on=goes_on)
