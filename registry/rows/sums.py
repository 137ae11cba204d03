"""What the scores of rows add up to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import exp
from typing import Annotated

from pydantic import Field

from sdk.schemas.evaluation import CORPUS_METRICS, LARGEST_SCORES, RowScore
from sdk.schemas.wire import IF_ANY, Wire
from sdk.statistics.calibration import Calibration
from sdk.statistics.score_intervals import Moments

#: Beyond this, a perplexity is not a number any more.
_MOST_EXPONENT = 700.0


class RowTotals(Wire):
    """What the rows of a file add up to."""

    rows: int
    unscored: int
    failed: int
    tokens: int
    texts: int
    #: By metric, how many rows have a score.
    scored: dict[str, int]
    #: The means that follow from the rows, without scores over a whole corpus. The loss is None if no row has one.
    means: dict[str, float | None]
    #: By metric, the ends of the 95 % interval of its mean, where they are known.
    intervals: Annotated[dict[str, tuple[float, float]], IF_ANY] = Field(default_factory=dict)


@dataclass
class RowSums:
    """The sums over the rows of a file; memory stays constant however many there are."""

    #: Whether the means get intervals, for which there is some more to add up.
    measures_intervals: bool = False

    #: Rows that were scored, or that failed.
    rows: int = 0
    #: Rows of which nothing could be scored.
    unscored: int = 0
    #: Rows whose loss is not a number.
    failed: int = 0
    #: Over the other rows: nats, and supervised tokens.
    loss: float = 0.0
    tokens: int = 0
    #: Rows with a text.
    texts: int = 0
    #: By metric: the sum of its scores, and how many rows have one.
    scores: dict[str, float] = field(default_factory=dict)
    scored: Counter[str] = field(default_factory=Counter)
    #: By metric, what its interval is made of.
    moments: dict[str, Moments] = field(default_factory=dict)
    calibration: Calibration = field(default_factory=Calibration)

    def add(self, row: RowScore) -> None:
        """Add one row."""
        texts = (row.prediction, row.content, row.reasoning, row.expected)
        self.texts += any(text is not None for text in texts)
        if row.unscored is not None and row.loss_sum is None and not row.scores:
            self.unscored += 1
            return
        self.rows += 1
        if row.loss_sum is None:
            self.failed += 1
        else:
            self.loss += row.loss_sum
            self.tokens += row.tokens
            self._measure("loss", row.loss_sum, row.tokens)
        if row.confidence is not None and "accuracy" in row.scores:
            self.calibration.add(row.confidence, row.scores["accuracy"] == 1.0)
        for name, score in row.scores.items():
            self.scores[name] = self.scores.get(name, 0.0) + score
            self.scored[name] += 1
            self._measure(name, score)

    def _measure(self, name: str, total: float, mass: float = 1.0) -> None:
        if self.measures_intervals:
            if name not in self.moments:
                self.moments[name] = Moments()
            self.moments[name].add(total, mass)

    def totals(self) -> RowTotals:
        """What the rows add up to."""
        return RowTotals(
            rows=self.rows,
            unscored=self.unscored,
            failed=self.failed,
            tokens=self.tokens,
            texts=self.texts,
            scored=dict(self.scored),
            means=self.means(),
            intervals=self.intervals(),
        )

    def intervals(self) -> dict[str, tuple[float, float]]:
        """The 95 % intervals of the means; without scores over a whole corpus."""
        found = {
            name: ends
            for name, moments in self.moments.items()
            if name not in CORPUS_METRICS and (ends := moments.interval(largest=LARGEST_SCORES.get(name))) is not None
        }
        if "loss" in found and found["loss"][1] < _MOST_EXPONENT:
            low, high = found["loss"]
            found["perplexity"] = (exp(low), exp(high))
        return found

    def means(self) -> dict[str, float | None]:
        """The means that follow from the rows, without scores over a whole corpus. The loss is None if no row has
        one.
        """
        means: dict[str, float | None] = {
            name: total / self.scored[name] for name, total in self.scores.items() if name not in CORPUS_METRICS
        }
        means["loss"] = self.loss / self.tokens if self.tokens else None
        if self.calibration.rows:
            means["expected_calibration_error"] = self.calibration.error
        return means


def summed(rows: Iterable[RowScore]) -> RowSums:
    """Add rows up.

    >>> found = summed([RowScore(row=0, loss_sum=3.0, tokens=2, scores={"f": 0.5}), RowScore(row=1, tokens=7)])
    >>> (found.rows, found.failed, found.loss, found.tokens, found.scores, found.scored["f"])
    (2, 1, 3.0, 2, {'f': 0.5}, 1)
    """
    sums = RowSums()
    for row in rows:
        sums.add(row)
    return sums
