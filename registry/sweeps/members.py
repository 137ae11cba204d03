"""Members of a sweep: how many there are in which state, and what one has handed in."""

from __future__ import annotations

import base64
import binascii
import math
import struct
from collections.abc import Sequence
from typing import Literal, NamedTuple

from sqlalchemy import and_, case, func, or_, select
from sqlalchemy.orm import Session

from registry.db.stored_json import table
from registry.db.types import seconds_between, utc_now
from registry.errors import Conflict, Verification
from registry.evaluations.models import Evaluation
from registry.jobs.lifecycle import FINAL, UNFINISHED
from registry.jobs.models import Attempt, Job
from registry.sweeps.models import Member, Sweep
from registry.sweeps.requests import needs_scoring
from registry.usage.charging import charge, record_bytes
from sdk.schemas.catalog import Publication
from sdk.schemas.evaluation import is_score
from sdk.schemas.job_requests import SweepPlace
from sdk.schemas.sweeps import ADAPTER_SIZE, HELD_OUT_LOSS, MOST_GROUPS, MemberResult, SweepRequest
from sdk.statistics.row_sums import is_mean


class SweepStanding(NamedTuple):
    """How far the members of a sweep are."""

    #: How many trials were proposed.
    trials: int
    #: The first member that waits for a job; None: none does.
    waiting: int | None
    #: How many members have a job that trains them, or scores them, and has not ended.
    training: int
    scoring: int
    #: The first member with a result that nothing scores yet, and the first one that was scored just now.
    unscored: int | None
    unread: int | None


_SCORING = Job.__table__.alias("scoring")


def standing_of(session: Session, sweep_id: str) -> SweepStanding:
    """Count the members of a sweep."""
    waits = and_(Member.job.is_(None), Member.reason.is_(None), Member.same_as.is_(None))
    unread = and_(_SCORING.c.state.in_(FINAL), Member.scored.is_(False))
    unscored = and_(Member.outcome.is_not(None), Member.scoring.is_(None), Member.scored.is_(False))
    counted = (
        select(
            func.coalesce(func.max(Member.trial), 0),
            func.min(case((waits, Member.number))),
            func.count(case((Job.state.in_(UNFINISHED), 1))),
            func.count(case((_SCORING.c.state.in_(UNFINISHED), 1))),
            func.min(case((unscored, Member.number))),
            func.min(case((unread, Member.number))),
        )
        .outerjoin(Job, Job.id == Member.job)
        .outerjoin(_SCORING, _SCORING.c.id == Member.scoring)
        .where(Member.sweep == sweep_id)
    )
    return SweepStanding(*session.execute(counted).one())


def trained_s(session: Session, sweep_ids: Sequence[str]) -> dict[str, float]:
    """Return how long the members of sweeps have trained in all, in seconds, by the sweep's id."""
    took_s = seconds_between(Attempt.started_at, func.coalesce(Attempt.finished_at, utc_now()))
    sums = (
        select(Member.sweep, func.sum(case((took_s > 0, took_s), else_=0.0)))
        .join(Attempt, Attempt.job_id == Member.job)
        .where(Member.sweep.in_(sweep_ids))
        .group_by(Member.sweep)
    )
    return dict.fromkeys(sweep_ids, 0.0) | dict(session.execute(sums).all())


def unfinished_jobs(session: Session, sweep_id: str) -> list[str]:
    """Return the ids of the jobs of a sweep that have not ended, in their order."""
    mine = or_(
        Job.id.in_(select(Member.job).where(Member.sweep == sweep_id)),
        Job.id.in_(select(Member.scoring).where(Member.sweep == sweep_id)),
    )
    return list(session.scalars(select(Job.id).where(mine, Job.state.in_(UNFINISHED)).order_by(Job.id)))


def keep_result(session: Session, place: SweepPlace, step: int, result: MemberResult, publication: Publication) -> None:
    """Keep what a member has handed in, in the transaction in which its job succeeds.

    Raises Verification for numbers that can't be of rows, Conflict if the sweep has gone.
    """
    member = session.get(Member, (place.sweep, place.number), with_for_update=True, populate_existing=True)
    sweep = session.get(Sweep, place.sweep)
    if member is None or sweep is None:
        raise Conflict(
            f"there is no sweep {place.sweep} any more, so its members are not kept; this worker must drop it"
        )
    losses, weights = _floats(result.row_losses, "row_losses"), _floats(result.row_weights, "row_weights")
    loss = _checked_mean(losses, weights, publication.metrics.get(HELD_OUT_LOSS, math.nan))
    member.outcome, member.step, member.steps = result.outcome, step, result.steps
    member.surplus_steps = result.surplus_steps
    measured = {**publication.metrics, ADAPTER_SIZE: float(publication.manifest.size_bytes)}
    # By which the best is chosen is what an evaluation says.
    own = {name: value for name, value in measured.items() if name == HELD_OUT_LOSS or name != _chosen_by(sweep)}
    member.metrics = {name: value for name, value in own.items() if math.isfinite(value)}
    member.row_losses, member.row_weights, member.loss = losses, weights, loss
    signature = publication.signature
    member.signature = None if signature is None else signature.model_dump(mode="json")
    kept_bytes = record_bytes(member.setting, member.metrics, losses, weights, member.signature)
    charge(session, sweep.namespace, records=kept_bytes - member.record_bytes)
    member.record_bytes = kept_bytes


def note_scores(session: Session, sweep: Sweep, member: Member) -> None:
    """Add to the metrics of a member what the job has found that scored it: nothing if that job failed."""
    job = session.get_one(Job, member.scoring)
    found = [one for one in table(job.result).get("evaluations", ()) if isinstance(one, str)]
    row = session.get(Evaluation, found[0]) if found else None
    scores = {} if row is None else {name: value for name, value in row.metrics.items() if is_score(name)}
    # The training's own losses are not those of an evaluation, but only that one chooses.
    chosen_by = _chosen_by(sweep)
    own = {name: value for name, value in (member.metrics or {}).items() if name != chosen_by}
    metrics = scores | own
    charge(session, sweep.namespace, records=record_bytes(metrics) - record_bytes(member.metrics))
    member.record_bytes += record_bytes(metrics) - record_bytes(member.metrics)
    member.metrics, member.scored = metrics, True


def _chosen_by(sweep: Sweep) -> str:
    """The metric by which the best is chosen, without reading all that the sweep was asked for."""
    return str(table(table(sweep.submission).get("request")).get("choose", HELD_OUT_LOSS))


def _floats(text: str, name: str) -> bytes:
    """Return little-endian float32 numbers that were sent in base64."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raw = b"?"
    if not raw or len(raw) % 4 or len(raw) > 4 * MOST_GROUPS:
        raise Verification(f"{name} are not float32 numbers in base64; upgrade the worker", param=f"member.{name}")
    return raw


def _checked_mean(losses: bytes, weights: bytes, recorded: float) -> float | None:
    """Return what `mean_of` does. Raises Verification for numbers that no rows give, and for another loss than the recorded one."""
    if len(losses) != len(weights):
        raise Verification("there are not as many row_weights as row_losses; upgrade the worker", param="member")
    weighing = numbers(weights)
    if not all(math.isfinite(weight) and weight >= 0 for weight in weighing) or not any(weighing):
        raise Verification(
            "row_weights are finite numbers, none below 0 and not all of them 0, and these are not; upgrade the worker",
            param="member.row_weights",
        )
    loss = mean_of(losses, weights)
    if loss is not None and not is_mean(recorded, numbers(losses), weighing):
        raise Verification(
            f"the losses of held-out rows give {loss:.6g} in all, and {HELD_OUT_LOSS} is {recorded:.6g}; upgrade the worker",
            param="member.row_losses",
        )
    return loss


def mean_of(losses: bytes, weights: bytes) -> float | None:
    """Return Σ loss · weight over Σ weight; None if it is not finite."""
    weight = sum(numbers(weights))
    loss = sum(numbers(losses)) / weight if weight > 0 else math.nan
    return loss if math.isfinite(loss) else None


def score_of(member: Member, request: SweepRequest) -> float | None:
    """Return by what a member that finished is chosen; None if it has no such score."""
    if member.outcome != "finished":
        return None
    if needs_scoring(request):
        return (member.metrics or {}).get(request.choose) if member.scored else None
    return member.loss


def has_begun(member: Member) -> bool:
    """Whether anything became of a member: one that a budget left without a job is not lost."""
    return any(known is not None for known in (member.job, member.reason, member.outcome))


def fate_of(members: Sequence[Member], request: SweepRequest) -> Literal["finished", "pruned", "failed"]:
    """Return what became of a setting, none of whose members runs or waits any more.

    It has finished if each of its members has a score: the mean over those that are left would be that of the lucky seeds.
    """
    begun = [member for member in members if has_begun(member)]
    if any(member.outcome == "pruned" for member in begun):
        return "pruned"
    return "finished" if begun and all(score_of(member, request) is not None for member in begun) else "failed"


def numbers(raw: bytes) -> tuple[float, ...]:
    """Return the float32 numbers that are kept.

    >>> numbers(struct.pack("<2f", 0.5, 2.0))
    (0.5, 2.0)
    """
    return struct.unpack(f"<{len(raw) // 4}f", raw)
