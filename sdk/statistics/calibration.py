"""Whether a classifier is right as often as its confidence says: expected calibration error.

>>> found = Calibration()
>>> for confidence, right in ((0.95, True), (0.85, True), (0.85, False), (0.55, False)):
...     found.add(confidence, right)
>>> [(one.above, one.rows, one.accuracy) for one in found.bins()], round(found.error, 4)
([(0.5, 1, 0.0), (0.8, 2, 0.5), (0.9, 1, 1.0)], 0.325)
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

#: The bins have equal widths, and each is without its lower end: ((m−1)/10, m/10].
BINS = 10
#: The upper ends of all bins but the last, equal to the decimals as written: 0.7 itself is in the seventh bin.
_ENDS = [number / BINS for number in range(1, BINS)]


@dataclass(frozen=True)
class Bin:
    """Rows whose labels were predicted with similar confidence."""

    #: The lower end, which the bin is without; the upper end is 1/`BINS` above it.
    above: float
    rows: int
    #: Mean probability of the predicted labels, and the share of them that were right, both 0..1.
    confidence: float
    accuracy: float


class Calibration:
    """Adds up rows, in the same memory however many there are."""

    def __init__(self) -> None:
        self._rows = [0] * BINS
        self._right = [0] * BINS
        self._confidence = [0.0] * BINS

    def add(self, confidence: float, right: bool) -> None:
        """Add a row: the probability of the likeliest label, and whether that is the row's own."""
        place = bisect_left(_ENDS, confidence)
        self._rows[place] += 1
        self._right[place] += right
        self._confidence[place] += confidence

    def bins(self) -> list[Bin]:
        """The bins that have rows, the least confident first."""
        parts = zip(range(BINS), self._rows, self._confidence, self._right, strict=True)
        return [Bin(place / BINS, rows, sure / rows, right / rows) for place, rows, sure, right in parts if rows]

    @property
    def rows(self) -> int:
        """How many rows were added."""
        return sum(self._rows)

    @property
    def error(self) -> float:
        """ECE = Σ |Bₘ|/n · |acc(Bₘ) − conf(Bₘ)|, 0..1; 0 without rows (Guo et al. 2017, arXiv 1706.04599, eq. 3)."""
        gaps = (one.rows * abs(one.accuracy - one.confidence) for one in self.bins())
        return sum(gaps) / self.rows if self.rows else 0.0
