"""Which setting of a sweep is the best, from the stored numbers of its members."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session, undefer

from registry.sweeps.members import numbers
from registry.sweeps.models import Member, Sweep
from sdk.schemas.sweeps import SettingVerdict, SweepRequest, SweepVerdict


class Chosen(NamedTuple):
    """What was chosen."""

    verdict: SweepVerdict
    #: The number of the member that is the best of the best setting.
    winner: int


def chosen_in(session: Session, sweep: Sweep, request: SweepRequest) -> Chosen | None:
    """Choose the best of a sweep whose members have all ended; None: none has a score."""
    query = select(Member).where(Member.sweep == sweep.id).order_by(Member.number)
    members = session.scalars(query.options(undefer(Member.row_losses), undefer(Member.row_weights))).all()
    trials: dict[int, list[Member]] = {}
    for member in members:
        trials.setdefault(member.trial, []).append(member)
    settings = sorted((_setting(those) for those in trials.values()), key=_order)
    if not settings or settings[0].score is None:
        return None
    best = settings[0].model_copy(update={"outcome": "best"})
    scored = [member for member in members if member.number in best.members]
    winner = min(scored, key=lambda member: _score(member) or 0.0)
    rows = 0 if winner.row_weights is None else sum(weight > 0 for weight in numbers(winner.row_weights))
    verdict = SweepVerdict(
        metric=request.choose,
        lower_is_better=True,
        margin=request.margin * abs(best.score or 0.0),
        rows=rows,
        seeds=request.seeds,
        settings=[best, *settings[1:]],
        told_apart=False,
        recommendation="",
    )
    return Chosen(verdict, winner.number)


def _setting(members: Sequence[Member]) -> SettingVerdict:
    scores = {member.number: score for member in members if (score := _score(member)) is not None}
    pruned = any(member.outcome == "pruned" for member in members)
    return SettingVerdict(
        trial=members[0].trial,
        setting=members[0].setting,
        members=list(scores),
        score=math.fsum(scores.values()) / len(scores) if scores else None,
        outcome="not told apart" if scores else "pruned" if pruned else "failed",
    )


def _order(setting: SettingVerdict) -> tuple[bool, float]:
    return setting.score is None, setting.score or 0.0


def _score(member: Member) -> float | None:
    """Return the held-out loss of a member that finished; None if it has none."""
    if member.outcome != "finished" or member.row_losses is None or member.row_weights is None:
        return None
    weight = math.fsum(numbers(member.row_weights))
    score = math.fsum(numbers(member.row_losses)) / weight if weight > 0 else math.nan
    return score if math.isfinite(score) else None
