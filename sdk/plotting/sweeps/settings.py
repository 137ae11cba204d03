"""The settings of a sweep with their numbers, as its table and its picture show them.

>>> from sdk.schemas.sweeps import SweepMember
>>> member = SweepMember(number=1, trial=1, setting={"rank": 4}, seed=0, job="j1", state="succeeded", metrics={"train_s": 60.0})
>>> one = SettingRow(trial=1, setting={"rank": 4}, members=(member,), outcome="best", score=1.5)
>>> one.mean("train_s"), one.mean("peak_memory_bytes"), shown(4), shown(0.0001), shown(True)
(60.0, None, '4', '0.0001', 'yes')
>>> with_error(1.36012, 0.0042), with_error(1.36, None), with_error(None, None)
('1.3601 ± 0.0042', '1.36', None)
>>> between(0.0123, 0.0561), between(None, None)
('0.012…0.056', None)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from statistics import mean
from typing import get_args

from sdk.schemas.evaluation import SCORER_PREFIX, TextMetric
from sdk.schemas.jobs import JobState
from sdk.schemas.sweep_axes import Setting
from sdk.schemas.sweeps import ADAPTER_SIZE, HELD_OUT_LOSS, SweepMember, SweepView
from sdk.schemas.wire import JsonScalar

_SCORES = frozenset(get_args(TextMetric)) | {"test_loss"}
#: The most digits after the point of a score.
_DIGITS = 6
_NAMES = {HELD_OUT_LOSS: "held-out loss", "test_loss": "loss of test rows"}


@dataclass(frozen=True)
class SettingRow:
    """One setting: what its members say together."""

    trial: int
    setting: Setting
    members: tuple[SweepMember, ...]
    #: As the verdict has it; before there is one, the state that its members have come to.
    outcome: str
    score: float | None = None
    standard_error: float | None = None
    #: By how much it is worse than the best, at least and at most.
    low: float | None = None
    high: float | None = None

    def mean(self, metric: str) -> float | None:
        """The mean of a metric over the members that have it."""
        return _mean(member.metrics.get(metric) for member in self.members)

    @property
    def best_step(self) -> float | None:
        """The step of the best look, the mean over members."""
        return _mean(member.best_step for member in self.members)


def _mean(values: Iterable[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return mean(found) if found else None


@dataclass(frozen=True)
class Cost:
    """What a setting costs, and the units in which that is said, the smallest first."""

    title: str
    of: Callable[[SettingRow], float | None]
    units: Mapping[str, float]


COSTS = (
    Cost("size of the adapter", lambda row: row.mean(ADAPTER_SIZE), {"kB": 1e3, "MB": 1e6, "GB": 1e9}),
    Cost("time to train", lambda row: row.mean("train_s"), {"s": 1.0, "min": 60.0, "h": 3600.0}),
    Cost("memory at most", lambda row: row.mean("peak_memory_bytes"), {"MB": 1e6, "GB": 1e9}),
    Cost("steps to the best look", lambda row: row.best_step, {"": 1.0}),
)


def rows_of(view: SweepView) -> list[SettingRow]:
    """Return the settings of a sweep: those of a grid in its order, others with the best first."""
    members: dict[int, list[SweepMember]] = {}
    for member in view.members:
        members.setdefault(member.trial, []).append(member)
    judged = {} if view.verdict is None else {one.trial: one for one in view.verdict.settings}
    rows = []
    for trial in [*judged, *(trial for trial in members if trial not in judged)]:
        own, found = members.get(trial, []), judged.get(trial)
        if found is not None:
            rows.append(
                SettingRow(
                    trial,
                    found.setting,
                    tuple(own),
                    found.outcome,
                    found.score,
                    found.standard_error,
                    found.low,
                    found.high,
                )
            )
        else:
            score = _mean(member.metrics.get(view.request.choose) for member in own if member.outcome == "finished")
            rows.append(SettingRow(trial, own[0].setting, tuple(own), _state(own), score))
    return sorted(rows, key=lambda row: row.trial) if view.request.sample == "grid" else rows


def _state(members: Iterable[SweepMember]) -> str:
    """Return what members have come to so far: the state of the one that has come least far."""
    order = [JobState.RUNNING, JobState.QUEUED, JobState.FAILED, JobState.CANCELLED]
    states = {member.state for member in members}
    outcomes = {member.outcome for member in members}
    return next((state.value for state in order if state in states), "pruned" if "pruned" in outcomes else "finished")


def scored_by(rows: Iterable[SettingRow], choose: str) -> list[str]:
    """Return the other scores that any of the settings has, by name."""
    names = {name for row in rows for member in row.members for name in member.metrics}
    return sorted(name for name in names if (name in _SCORES or name.startswith(SCORER_PREFIX)) and name != choose)


def name_of(metric: str) -> str:
    """Return what people call a metric."""
    return _NAMES.get(metric, metric)


def shown(value: JsonScalar) -> str:
    """Return the value of an option as a table has it."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def with_error(score: float | None, error: float | None) -> str | None:
    """Return a score with as many digits as its error has, of which two count."""
    if score is None or not error:
        return None if score is None else f"{score:.5g}"
    digits = min(_DIGITS, max(0, 1 - math.floor(math.log10(error))))
    return f"{score:.{digits}f} ± {error:.{digits}f}"


def between(low: float | None, high: float | None) -> str | None:
    """Return the two ends of an interval."""
    return None if low is None or high is None else f"{low:.2g}…{high:.2g}"
