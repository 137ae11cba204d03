"""What a sweep's scores say, as the record and the sentences that people read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from sdk.schemas.sweep_axes import Setting
from sdk.schemas.sweeps import HELD_OUT_LOSS, SettingVerdict, SweepVerdict
from sdk.schemas.wire import JsonScalar
from sdk.statistics.comparison import LEAST_CLUSTERS
from sdk.statistics.sweeps import SweepJudgement
from sdk.statistics.wording import decimals, listed, metric_name, shown_size

__all__ = ["TrialFacts", "verdict_of"]

#: Options' names as people write them; others are written with spaces.
_OPTIONS = {"lr": "learning rate", "use_dora": "DoRA", "use_rslora": "rsLoRA"}
#: The most settings that a sentence names.
_MOST_NAMED = 4
#: Of two adapters of the same size, one is taken for its time only if it takes less than this share of the other's.
_CLEARLY_LESS = 0.9


@dataclass(frozen=True)
class TrialFacts:
    """What is known of a setting beside its scores."""

    trial: int
    setting: Setting
    #: The numbers of its members that count.
    members: Sequence[int]
    #: Why it is not compared: what became of a training of it, or that one was scored on other rows; None: it is.
    without: Literal["pruned", "failed", "not compared"] | None = None
    #: How many trainings of it began, and how many of these ended without a score.
    begun: int = 0
    lost: int = 0
    #: Of its adapter, and of its members' training in the mean.
    size_bytes: float | None = None
    train_s: float | None = None


def verdict_of(
    found: SweepJudgement, trials: Sequence[TrialFacts], *, metric: str, lower_is_better: bool, margin: float
) -> SweepVerdict:
    """Return the verdict on a sweep, `trials` being in the order of the settings that were judged.

    The winner, its first setting, has the best score. What is recommended may be another: the smallest adapter of those that are
    as good, and of equally small ones the one that clearly takes the least time.
    """
    settings = [_setting_verdict(found, place, trials[place]) for place in range(len(trials))]
    sign = 1.0 if lower_is_better else -1.0
    order = sorted(range(len(trials)), key=lambda place: _order(settings[place], sign))
    best = None if found.best is None else settings[found.best]
    others = [one for one in settings if one is not best and one.score is not None]
    verdict = SweepVerdict(
        metric=metric,
        lower_is_better=lower_is_better,
        margin=margin,
        rows=found.rows,
        seeds=max((one.seeds for one in found.settings), default=0),
        settings=[settings[place] for place in order],
        told_apart=best is not None and all(one.outcome == "worse" for one in others),
        recommendation="",
    )
    words = _Words(verdict, found, trials)
    return verdict.model_copy(update={"recommendation": words.recommendation(), "notes": words.notes()})


def _setting_verdict(found: SweepJudgement, place: int, trial: TrialFacts) -> SettingVerdict:
    one = found.settings[place]
    return SettingVerdict(
        trial=trial.trial,
        setting=trial.setting,
        members=list(trial.members),
        score=one.score,
        standard_error=one.standard_error,
        difference=one.difference,
        low=one.low,
        high=one.high,
        p=one.p,
        can_show=one.can_show,
        outcome=trial.without if trial.without and one.score is None else one.outcome,
    )


def _order(one: SettingVerdict, sign: float) -> tuple[bool, bool, float, int]:
    """The best first, then by score, then those without one."""
    return one.score is None, one.outcome != "best", sign * (one.score or 0.0), one.trial


class _Words:
    """The sentences on one verdict."""

    def __init__(self, verdict: SweepVerdict, found: SweepJudgement, trials: Sequence[TrialFacts]) -> None:
        self.verdict, self.found = verdict, found
        self.trials = {one.trial: one for one in trials}
        self.scored = [one for one in verdict.settings if one.score is not None]
        self.best = self.scored[0] if self.scored else None
        settings = [one.setting for one in verdict.settings]
        varied = {name for one in settings for name in one if any(one[name] != each.get(name) for each in settings)}
        self.named = [name for name in settings[0] if name in varied] or list(settings[0])
        self.metric = "held-out loss" if verdict.metric == HELD_OUT_LOSS else metric_name(verdict.metric)

    def recommendation(self) -> str:
        """One to three sentences."""
        if self.best is None:
            return "No setting has a score, so there is nothing to recommend."
        extreme = "lowest" if self.verdict.lower_is_better else "highest"
        if len(self.scored) == 1:
            return f"{_capital(self._name(self.best))} is the only setting with a score: its {self.metric} is {self._score()}."
        lead = f"{_capital(self._name(self.best))} has the {extreme} {self.metric}, {self._score()}."
        if not self.found.enough_rows:
            return f"{lead} {self._rows()} are too few to show whether others are worse; at least {LEAST_CLUSTERS} are needed."
        return f"{lead} {self._of_others()} {self._choice()}"

    def notes(self) -> list[str]:
        """What else a reader should know."""
        notes = [*self._on_edges(), *self._on_seeds(), *self._on_rows(), *self._without_score()]
        if len(self.scored) > 1 and not self.verdict.test:
            notes.append(
                "The winner was chosen by these rows, which makes its score look a little better than it is; its score on test rows is unbiased (--test-data)."
            )
        return notes

    def _of_others(self) -> str:
        parts = []
        for outcome, group in self._grouped():
            names = f"{self._names(group)} {'is' if len(group) == 1 else 'are'}"
            if outcome == "as good":
                parts.append(f"{names} as good (within {self._margin()})")
            elif outcome == "worse":
                parts.append(f"{names} worse by {self._by(group)}")
            else:
                largest = max(one.can_show or 0.0 for one in group)
                can = f": these {self._evidence()} can show {shown_size(largest)}" if largest else ""
                parts.append(f"{names} not told apart from it{can}")
        return f"{_capital('; '.join(parts))}."

    def _choice(self) -> str:
        best, outcomes = self.best, {one.outcome for one in self.scored[1:]}
        assert best is not None
        good = [best, *(one for one in self.scored if one.outcome == "as good")]
        taken, why = self._cheapest(good)
        if taken is not best:
            return f"Take {self._name(taken)}: it is the {why} of those that are as good, though {self._name(best)} wins by its score."
        if outcomes == {"not told apart"}:
            return f"Take {self._name(best)} if you must choose now; more rows or seeds would show more."
        if why:
            return f"Take {self._name(best)}: it is the {why} of those that are as good."
        return f"Take {self._name(best)}."

    def _cheapest(self, good: Sequence[SettingVerdict]) -> tuple[SettingVerdict, str]:
        """The setting to take of those that are as good, and what it is of them."""
        best = good[0]
        sizes = {one.trial: self.trials[one.trial].size_bytes for one in good}
        known = [size for size in sizes.values() if size is not None]
        if len(good) == 1 or len(known) < len(good):
            return best, ""
        small = [one for one in good if sizes[one.trial] == min(known)]
        times = {one.trial: self.trials[one.trial].train_s or 0.0 for one in small}
        first = best if best in small else small[0]
        quickest = min(small, key=lambda one: times[one.trial])
        taken = quickest if times[quickest.trial] < _CLEARLY_LESS * times[first.trial] else first
        if len(small) < len(good):
            return taken, "smallest" if len(small) == 1 or taken is first else "smallest and quickest to train"
        return taken, "quickest to train" if taken is not first else ""

    def _on_edges(self) -> list[str]:
        """Options whose best value is the first or last that was tried, while no other value is as good."""
        return [
            words for name in self.named if self.best and (words := self._on_edge(name, self.best.setting.get(name)))
        ]

    def _on_edge(self, name: str, best: JsonScalar) -> str:
        tried = {value for one in self.scored if (value := _number(one.setting.get(name))) is not None}
        value = _number(best)
        others = [one for one in self.scored if one.outcome == "as good" and one.setting.get(name) != best]
        if value is None or len(tried) < 2 or others:
            return ""
        if value == max(tried):
            return f"The best {_option(name)} is the largest that was tried: try larger ones."
        # Nothing lies below 0, and no whole number of ranks or rows below 1.
        if value == min(tried) and value and best != 1:
            return f"The best {_option(name)} is the smallest that was tried: try smaller ones."
        return ""

    def _on_seeds(self) -> list[str]:
        notes = []
        if self.found.seed_deviation is None and len(self.scored) > 1:
            notes.append(
                "Each setting was trained with one seed, so this holds for these trainings alone; "
                "with other seeds they may come in another order, and --seeds 3 shows that."
            )
        names = [self._name(one) for one in self.trials.values()]
        return notes + [
            f"The trainings of {names[place]} vary far more with the seed than those of others, and it is judged by its own alone."
            for place in self.found.unsteady
        ]

    def _on_rows(self) -> list[str]:
        notes = []
        if self.found.enough_rows and not self.found.enough_for_as_good:
            notes.append(
                f"A few rows weigh most: these {self.found.rows} say as much as {self.found.equal_rows:.0f} of equal weight, "
                f"and with fewer than {LEAST_CLUSTERS} no setting is called as good."
            )
        judged = zip(self.trials.values(), self.found.settings, strict=True)
        few = [f"{self._name(trial)} ({one.differing})" for trial, one in judged if one.differing is not None]
        if few:
            notes.append(f"Few rows score otherwise than with the best: {self._some(few)}.")
        return notes

    def _without_score(self) -> list[str]:
        groups: dict[str, list[str]] = {}
        for one in self.verdict.settings:
            if why := _why_without(one, self.trials[one.trial]):
                groups.setdefault(why, []).append(self._name(one))
        return [f"{why}: {self._some(names)}." for why, names in groups.items()]

    def _grouped(self) -> Iterator[tuple[str, list[SettingVerdict]]]:
        """The settings after the best by what is told of them, in the order in which a reader asks."""
        for outcome in ("as good", "not told apart", "worse"):
            group = [one for one in self.scored[1:] if one.outcome == outcome]
            if group:
                yield outcome, sorted(group, key=lambda one: one.trial)

    def _by(self, group: Sequence[SettingVerdict]) -> str:
        """By how much settings are worse: each with its interval, or from the least to the most."""
        sizes = [one.difference or 0.0 for one in group]
        if len(group) > 1:
            digits = decimals(min(sizes))
            return f"{min(sizes):.{digits}f} to {max(sizes):.{digits}f}"
        low, high = group[0].low or 0.0, group[0].high or 0.0
        digits = decimals((high - low) / 2)
        return f"{sizes[0]:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"

    def _names(self, group: Sequence[SettingVerdict]) -> str:
        """Settings in a sentence; those of a single option share its name."""
        if len(self.named) == 1 and 1 < len(group) <= _MOST_NAMED:
            return f"{_option(self.named[0])} {listed([_shown(one.setting.get(self.named[0])) for one in group])}"
        return self._some([self._name(one) for one in group])

    def _some(self, names: Sequence[str]) -> str:
        return listed(names) if len(names) <= _MOST_NAMED else listed([*names[:2], f"{len(names) - 2} others"])

    def _name(self, one: SettingVerdict | TrialFacts) -> str:
        """A setting by its options: "rank 4", or "rank 4 with lr 0.001 and alpha 8"."""
        first, *others = [f"{_option(name)} {_shown(one.setting.get(name))}" for name in self.named]
        return f"{first} with {listed(others)}" if others else first

    def _score(self) -> str:
        best = self.best
        assert best is not None
        assert best.score is not None
        if best.standard_error is None:
            return f"{best.score:.4g}"
        digits = decimals(best.standard_error)
        return f"{best.score:.{digits}f} ± {best.standard_error:.{digits}f}"

    def _margin(self) -> str:
        """The margin as a share of the best score, or as it is where that is zero."""
        score = abs(self.best.score or 0.0) if self.best else 0.0
        share = self.verdict.margin / score if score else 0.0
        return f"{100 * share:.2g} %" if 0 < share < 1 else f"{self.verdict.margin:.2g}"

    def _rows(self) -> str:
        return f"{self.found.rows} row{'s' if self.found.rows != 1 else ''}"

    def _evidence(self) -> str:
        """What there was to tell settings apart."""
        return (
            f"{self._rows()} and {self.verdict.seeds} seeds" if self.found.seed_deviation is not None else self._rows()
        )


def _why_without(one: SettingVerdict, known: TrialFacts) -> str:
    if one.outcome == "pruned":
        alone = "Without a score, since it was stopped early"
        return "Not compared, since a training of it was stopped early" if known.begun > 1 else alone
    if one.outcome != "failed":
        return ""
    if known.lost < known.begun:
        return f"Not compared, since {known.lost} of {known.begun} trainings ended without a score"
    return "Without a score, since no training of it ended with a finite score"


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]


def _option(name: str) -> str:
    return _OPTIONS.get(name, name.replace("_", " "))


def _shown(value: JsonScalar) -> str:
    """A value of an option as the command line has it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value:.4g}"
    return "unset" if value is None else str(value)


def _number(value: JsonScalar) -> float | None:
    """The value if it is a number."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
