"""Which setting of a sweep is the best, from the stored numbers of its members."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session, undefer

from registry.sweeps.members import score_of
from registry.sweeps.models import Member, Sweep
from registry.sweeps.requests import lower_is_better, needs_scoring
from sdk.schemas.sweeps import SettingVerdict, SweepRequest, SweepVerdict
from sdk.statistics.sweeps import SettingScores, judge

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

#: The metrics of rows by which nothing was chosen begin so.
_TEST = "test_"
#: A margin is above 0, also where the best has a score of 0.
_LEAST_MARGIN = 1e-12


class Chosen(NamedTuple):
    """What was chosen."""

    verdict: SweepVerdict
    #: The number of the member that is the best of the best setting.
    winner: int


def chosen_in(session: Session, sweep: Sweep, request: SweepRequest) -> Chosen | None:
    """Choose the best of a sweep whose members have all ended; None: none has a score."""
    query = select(Member).where(Member.sweep == sweep.id, Member.same_as.is_(None)).order_by(Member.number)
    long = () if needs_scoring(request) else (undefer(Member.row_losses), undefer(Member.row_weights))
    members = session.scalars(query.options(*long)).all()
    worse = 1.0 if lower_is_better(request.choose) else -1.0
    trials: dict[int, list[Member]] = {}
    for member in members:
        trials.setdefault(member.trial, []).append(member)
    scores = {member.number: worse * score for member in members if (score := score_of(member, request)) is not None}
    if not scores:
        return None
    found = _by_scores(trials, scores, worse) if needs_scoring(request) else _by_rows(sweep, request, trials, scores)
    best = found.settings[0]
    assert best.score is not None
    winner = min((number for number in best.members), key=scores.__getitem__)
    told = next(member.metrics or {} for member in members if member.number == winner)
    verdict = SweepVerdict(
        metric=request.choose,
        lower_is_better=worse > 0,
        margin=_margin(request, best.score),
        rows=found.rows,
        seeds=request.seeds,
        settings=found.settings,
        told_apart=all(one.outcome in ("worse", "pruned", "failed") for one in found.settings[1:]),
        recommendation="",
        test={name.removeprefix(_TEST): value for name, value in told.items() if name.startswith(_TEST)},
        notes=found.notes,
    )
    return Chosen(verdict, winner)


class _Found(NamedTuple):
    """What the scores say: the best setting first."""

    settings: list[SettingVerdict]
    rows: int
    notes: list[str]


def _margin(request: SweepRequest, score: float) -> float:
    return max(request.margin * abs(score), _LEAST_MARGIN)


def _by_rows(
    sweep: Sweep, request: SweepRequest, trials: Mapping[int, Sequence[Member]], scores: Mapping[int, float]
) -> _Found:
    """Judge settings by their members' losses on each row."""
    import numpy as np

    scored = [member for those in trials.values() for member in those if member.number in scores]
    weights = scored[0].row_weights
    alike = {member.number for member in scored if member.row_weights == weights}
    masses = _floats(weights)
    given = [
        SettingScores(
            np.array([_floats(one.row_losses) for one in those if one.number in alike]).reshape(-1, len(masses)), masses
        )
        for those in trials.values()
    ]
    counted = [[scores[one.number] for one in _in(those, alike)] for those in trials.values()]
    least = min(fmean(each) for each in counted if each)
    judged = judge(given, margin=_margin(request, least), lower_is_better=True, seed=sweep.id)
    settings = [
        _setting(
            those,
            [one.number for one in _in(those, alike)],
            **{name: getattr(said, name) for name in ("standard_error", "difference", "low", "high", "p", "can_show")},
            score=said.score,
            outcome=said.outcome,
        )
        for those, said in zip(trials.values(), judged.settings, strict=True)
    ]
    notes = []
    if others := sorted(scores.keys() - alike):
        notes.append(
            f"members {', '.join(map(str, others))} were scored on other held-out tokens than the first, so they can't be compared"
        )
    if judged.seed_deviation is None:
        notes.append("no setting has several seeds, so what is said holds for these trainings alone")
    return _Found(sorted(settings, key=_order), judged.rows, notes)


def _by_scores(trials: Mapping[int, Sequence[Member]], scores: Mapping[int, float], worse: float) -> _Found:
    """Order settings by the mean of their members' scores; nothing is said about how sure that is."""
    settings = []
    for those in trials.values():
        numbers = [member.number for member in those if member.number in scores]
        score = worse * fmean(scores[number] for number in numbers) if numbers else None
        settings.append(_setting(those, numbers, score=score, outcome="not told apart" if numbers else "failed"))
    settings.sort(key=lambda one: (one.score is None, worse * (one.score or 0.0)))
    settings[0] = settings[0].model_copy(update={"outcome": "best"})
    return _Found(settings, 0, ["settings are ordered by their scores, and not compared row by row"])


def _setting(members: Sequence[Member], numbers: list[int], *, outcome: str, **said: float | None) -> SettingVerdict:
    if outcome == "failed" and any(member.outcome == "pruned" for member in members):
        outcome = "pruned"
    about = {"trial": members[0].trial, "setting": members[0].setting, "members": numbers, "outcome": outcome}
    return SettingVerdict.model_validate({**about, **said})


def _in(members: Sequence[Member], numbers: set[int]) -> list[Member]:
    return [member for member in members if member.number in numbers]


def _order(setting: SettingVerdict) -> tuple[bool, bool, float]:
    return setting.outcome != "best", setting.score is None, setting.score or 0.0


def _floats(raw: bytes | None) -> Floats:
    import numpy as np

    return np.frombuffer(raw or b"", dtype="<f4").astype(np.float64)
