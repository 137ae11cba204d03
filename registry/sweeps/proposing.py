"""Which setting is tried next, by what has become of the earlier ones."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.jobs.lifecycle import UNFINISHED
from registry.jobs.models import Job
from registry.sweeps.deciding.drawing import drawn
from registry.sweeps.deciding.tpe import proposed
from registry.sweeps.deciding.tried import Tried
from registry.sweeps.members import fate_of, score_of
from registry.sweeps.models import Member, Rung
from registry.sweeps.requests import lower_is_better, needs_scoring
from sdk.schemas.sweep_axes import Setting
from sdk.schemas.sweep_grid import grid
from sdk.schemas.sweeps import RUNGS, SweepRequest


def setting_of(request: SweepRequest, past: Sequence[Tried], *, seed: str, trial: int) -> Setting:
    """Return the setting of a trial, the same for the same past. Raises Invalid if a library is missing."""
    if request.sample == "grid":
        return grid(request.settings)[trial - 1]
    if request.sample == "random":
        return drawn(request.settings, seed=seed, trial=trial)
    better = lower_is_better(request.choose)
    return proposed(request.settings, past, seed=seed, trial=trial, lower_is_better=better)


def tried_in(session: Session, sweep_id: str, request: SweepRequest) -> list[Tried]:
    """Return what has become of the trials of a sweep so far, in their order."""
    shares = RUNGS[request.stop_early]
    losses: dict[int, dict[float, float]] = {}
    for rung in session.scalars(select(Rung).where(Rung.sweep == sweep_id)):
        losses.setdefault(rung.number, {})[shares[rung.rung]] = rung.loss
    scoring = Job.__table__.alias("scoring")
    query = select(Member, Job.state, scoring.c.state).outerjoin(Job, Job.id == Member.job)
    query = query.outerjoin(scoring, scoring.c.id == Member.scoring)
    trials: dict[int, list[tuple[Member, bool]]] = {}
    for member, training, is_scored in session.execute(query.where(Member.sweep == sweep_id).order_by(Member.number)):
        waits = member.job is None and member.reason is None
        unscored = needs_scoring(request) and member.outcome == "finished" and not member.scored
        runs = waits or unscored or training in UNFINISHED or is_scored in UNFINISHED
        trials.setdefault(member.trial, []).append((member, runs))
    found: dict[int, Tried] = {}
    for trial, members in trials.items():
        first = members[0][0]
        if first.same_as is not None:
            like = found[first.same_as]
            found[trial] = Tried(trial, like.setting, like.state, like.score, like.steps)
        else:
            found[trial] = _tried(trial, members, losses, request)
    return list(found.values())


def _tried(
    trial: int, members: Sequence[tuple[Member, bool]], losses: dict[int, dict[float, float]], request: SweepRequest
) -> Tried:
    scores = [score for member, _ in members if (score := score_of(member, request)) is not None]
    running = any(runs for _, runs in members)
    state = "running" if running else fate_of([member for member, _ in members], request)
    steps: dict[float, list[float]] = {}
    for member, _ in members:
        for share, loss in losses.get(member.number, {}).items():
            steps.setdefault(share, []).append(loss)
    score = math.fsum(scores) / len(scores) if state == "finished" else None
    means = {share: math.fsum(those) / len(those) for share, those in steps.items()}
    return Tried(trial, members[0][0].setting, state, score, means)
