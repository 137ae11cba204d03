"""Which setting of a sweep is the best, from the stored numbers of its members."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean
from typing import NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.jobs.models import Checkpoint
from registry.sweeps.member_rows import MemberRows, ReadRows, same_rows, stored_rows
from registry.sweeps.members import fate_of, has_begun, score_of
from registry.sweeps.models import Member, Sweep
from registry.sweeps.requests import lower_is_better, needs_scoring
from sdk.schemas.sweep_axes import Setting
from sdk.schemas.sweeps import SettingVerdict, SweepRequest, SweepVerdict
from sdk.statistics.sweep_words import TrialFacts, verdict_of
from sdk.statistics.sweeps import SettingScores, judge

#: The metrics of rows by which nothing was chosen begin so.
_TEST = "test_"
#: Said of a sweep in which nothing can be compared.
NONE_COMPARED = "every setting has a training that stopped early or without a score, and what is left of a setting would be its luckiest: none is compared"
NONE_ALIKE = "no setting has all of its trainings scored on the held-out tokens that most were scored on, so scores are taken as they are"
#: A margin is above 0, also where the best has a score of 0.
_LEAST_MARGIN = 1e-12


class BestMember(NamedTuple):
    """What was chosen."""

    verdict: SweepVerdict
    #: The number of the member that is the best of the best setting.
    winner: int


@dataclass(frozen=True)
class Contest:
    """The members of a sweep, which have all ended."""

    sweep: Sweep
    request: SweepRequest
    #: Those that were trained, in their order.
    members: Sequence[Member]
    #: How large the adapter of each is, by its number.
    sizes: Mapping[int, int]
    #: What those that are compared lost on each row; None: none is, or an evaluation scores them.
    rows: MemberRows | None = None

    @classmethod
    def of(cls, session: Session, sweep: Sweep, request: SweepRequest) -> Contest:
        """Read the members of a sweep."""
        query = select(Member).where(Member.sweep == sweep.id, Member.same_as.is_(None)).order_by(Member.number)
        kept = select(Member.number, Checkpoint.size_bytes).where(Member.sweep == sweep.id)
        kept = kept.join(Checkpoint, (Checkpoint.job_id == Member.job) & (Checkpoint.step == Member.step))
        found = cls(sweep, request, session.scalars(query).all(), dict(session.execute(kept).all()))
        return found if needs_scoring(request) else found.with_rows(partial(stored_rows, session, sweep.id))

    def with_rows(self, read: ReadRows) -> Contest:
        """Return the same with the losses of those that are compared."""
        numbers = [one.number for one in self.compared]
        return replace(self, rows=same_rows(numbers, read)) if numbers else self

    @property
    def scores(self) -> dict[int, float]:
        """The scores of those that have one, by their numbers."""
        found = {member.number: score_of(member, self.request) for member in self.members}
        return {number: score for number, score in found.items() if score is not None}

    @property
    def trials(self) -> list[list[Member]]:
        """The members of each setting, in their order."""
        found: dict[int, list[Member]] = {}
        for member in self.members:
            found.setdefault(member.trial, []).append(member)
        return list(found.values())

    @property
    def compared(self) -> list[Member]:
        """The members of settings that lost none, in their order."""
        return [
            one
            for those in self.trials
            if fate_of(those, self.request) == "finished"
            for one in those
            if has_begun(one)
        ]

    def losses(self) -> MemberRows | str:
        """Return what members lost on each row, or why none are compared."""
        if self.rows is None:
            return NONE_COMPARED
        return self.rows if any(self._numbers(those, self.rows) for those in self.trials) else NONE_ALIKE

    def _numbers(self, members: Sequence[Member], rows: MemberRows) -> list[int]:
        """The numbers of a setting's members if all of them count."""
        numbers = [one.number for one in members if has_begun(one)]
        whole = fate_of(members, self.request) == "finished" and set(numbers) <= set(rows.numbers)
        return numbers if whole else []

    def judged(self, rows: MemberRows) -> BestMember:
        """Choose by what members scored on each row."""
        import numpy as np

        none = np.empty((0, len(rows.masses)))
        counted = [self._numbers(those, rows) for those in self.trials]
        place = {number: at for at, number in enumerate(rows.numbers)}
        # The members of a setting follow each other.
        given = [
            SettingScores(rows.sums[place[numbers[0]] : place[numbers[-1]] + 1] if numbers else none, rows.masses)
            for numbers in counted
        ]
        means = [one.sums.sum() / max(len(one.sums), 1) / one.masses.sum() for one in given if len(one.sums)]
        lower = lower_is_better(self.request.choose)
        margin = self._margin(float(min(means) if lower else max(means)))
        found = judge(given, margin=margin, lower_is_better=lower, seed=self.sweep.id)
        facts = [self._facts(those, numbers) for those, numbers in zip(self.trials, counted, strict=True)]
        verdict = verdict_of(found, facts, metric=self.request.choose, lower_is_better=lower, margin=margin)
        return self._chosen(verdict, rows.notes)

    def ordered(self, why: str) -> BestMember:
        """Choose by the members' scores alone: nothing is said about how sure that is."""
        lower = lower_is_better(self.request.choose)
        settings = [self._by_score(those) for those in self.trials]
        settings.sort(key=lambda one: (one.score is None, (one.score or 0.0) * (1 if lower else -1)))
        best = settings[0] if settings[0].score is None else settings[0].model_copy(update={"outcome": "best"})
        verdict = SweepVerdict(
            metric=self.request.choose,
            lower_is_better=lower,
            margin=self._margin(best.score or 0.0),
            rows=0,
            seeds=self.request.seeds,
            settings=[best, *settings[1:]],
            told_apart=False,
            recommendation="None of the settings can be recommended: the winner is the single training with the best score."
            if best.score is None
            else f"Take {_shown(best.setting)}, which has the best score; whether that is chance was not looked at.",
        )
        return self._chosen(verdict, [why])

    def _by_score(self, members: Sequence[Member]) -> SettingVerdict:
        fate, scores = fate_of(members, self.request), self.scores
        numbers = [one.number for one in members if one.number in scores] if fate == "finished" else []
        return SettingVerdict(
            trial=members[0].trial,
            setting=members[0].setting,
            members=numbers,
            score=fmean(scores[number] for number in numbers) if numbers else None,
            outcome="not told apart" if fate == "finished" else fate,
        )

    def _margin(self, score: float) -> float:
        return max(self.request.margin * abs(score), _LEAST_MARGIN)

    def _facts(self, members: Sequence[Member], numbers: Sequence[int]) -> TrialFacts:
        sizes = [self.sizes[one.number] for one in members if one.number in self.sizes]
        times = [one.metrics["train_s"] for one in members if one.metrics and "train_s" in one.metrics]
        fate, begun = fate_of(members, self.request), [one.number for one in members if has_begun(one)]
        return TrialFacts(
            members[0].trial,
            members[0].setting,
            numbers,
            without=None if numbers else "not compared" if fate == "finished" else fate,
            begun=len(begun),
            lost=sum(number not in self.scores for number in begun),
            size_bytes=fmean(sizes) if sizes else None,
            train_s=fmean(times) if times else None,
        )

    def _chosen(self, verdict: SweepVerdict, notes: list[str]) -> BestMember:
        sign = 1.0 if verdict.lower_is_better else -1.0
        winner = min(verdict.settings[0].members or self.scores, key=lambda number: sign * self.scores[number])
        metrics = next(one.metrics or {} for one in self.members if one.number == winner)
        test = {name.removeprefix(_TEST): value for name, value in metrics.items() if name.startswith(_TEST)}
        return BestMember(verdict.model_copy(update={"test": test, "notes": [*notes, *verdict.notes]}), winner)


def _shown(setting: Setting) -> str:
    return ", ".join(f"{name} {value}" for name, value in setting.items())
