"""From a sweep's row to its API form."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.orm import Session, aliased

from registry.db.stored_json import readable, view_of
from registry.jobs.models import Job
from registry.sweeps.members import trained_s
from registry.sweeps.models import Member, Sweep
from registry.sweeps.requests import ShownSweep, submission_of
from sdk.schemas.jobs import JobState
from sdk.schemas.sweeps import SweepMember, SweepState, SweepVerdict, SweepView
from sdk.schemas.wire import member_of

#: How a job ends that scores nothing.
_WITHOUT_SCORES = (JobState.FAILED, JobState.CANCELLED)


def present_sweeps(session: Session, sweeps: Sequence[Sweep]) -> list[SweepView]:
    """Return sweeps as sent over the API, without what only one is shown with."""
    ids = [sweep.id for sweep in sweeps]
    counts: dict[str, dict[str, int]] = {}
    states = select(Member.sweep, Job.state, func.count()).join(Job, Job.id == Member.job)
    for sweep_id, state, count in session.execute(
        states.where(Member.sweep.in_(ids)).group_by(Member.sweep, Job.state)
    ):
        counts.setdefault(sweep_id, {})[state] = count
    won = select(Member.sweep, Member.ref).join(Sweep, (Sweep.id == Member.sweep) & (Sweep.winner == Member.number))
    refs = {row.sweep: row.ref for row in session.execute(won.where(Member.sweep.in_(ids)))}
    seconds = trained_s(session, ids)
    return [
        view_of(
            ShownSweep,
            sweep,
            state=member_of(SweepState, sweep.state),
            request=submission_of(sweep).request,
            counts=counts.get(sweep.id, {}),
            ref=refs.get(sweep.id),
            train_s=round(seconds[sweep.id], 3),
        )
        for sweep in sweeps
    ]


def present_sweep(session: Session, sweep: Sweep) -> SweepView:
    """Return a sweep with its members and its verdict."""
    (view,) = present_sweeps(session, [sweep])
    stored = session.scalar(select(Sweep.verdict).where(Sweep.id == sweep.id))
    verdict = None if stored is None else readable(SweepVerdict, stored)
    return view.model_copy(update={"members": present_members(session, sweep.id), "verdict": verdict})


def present_members(session: Session, sweep_id: str) -> list[SweepMember]:
    """Return the members of a sweep that have a job, or will have none, in their order."""
    scoring = aliased(Job)
    query = select(Member, Job.state, Job.message, Job.reason, scoring.state, scoring.message)
    query = query.outerjoin(Job, Job.id == Member.job).outerjoin(scoring, scoring.id == Member.scoring)
    found = []
    for member, state, message, reason, scored, said in session.execute(
        query.where(Member.sweep == sweep_id).order_by(Member.number)
    ):
        if scored in _WITHOUT_SCORES:
            message = f"its scoring {scored}" if scored == JobState.FAILED else "its scoring was cancelled"
            message = f"{message}: {said}" if said else message
        if member.job is None and member.reason is None:
            # It waits, or an earlier one stands for it.
            continue
        found.append(
            view_of(
                SweepMember,
                member,
                job=member.job or "",
                state=state or "failed",
                reason=member.reason or message or reason,
                metrics=member.metrics or {},
                best_step=member.step,
            )
        )
    return found
