"""What is drawn: one curve for each training, and its series in as many buckets as there is room for.

>>> one = Buckets(first=[1, 2, 3, 4], step=[1, 2, 3, 4], count=[1] * 4, min=[4, 9, 2, 1], max=[4, 9, 2, 1], mean=[4, 9, 2, 1], last=[4, 9, 2, 1])
>>> half = reduced(one, 2)
>>> half.first, half.step, half.min, half.max, half.mean, half.last
([1, 3], [2, 4], [4.0, 1.0], [9.0, 2.0], [6.5, 1.5], [9.0, 1.0])
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from sdk.schemas.series import Buckets, Series

#: The training's own loss, its learning rate, the norm of its gradients, and the loss of its held-out rows.
LOSS, RATE, NORM, HELD_OUT = "loss", "lr", "grad_norm", "eval_loss"
#: A line stops where the next value is this many times as far away as it usually is.
_GAP = 8


@dataclass(frozen=True)
class Curve:
    """The series of one training under a name."""

    #: A job's id or a version's ref; shown as plain text.
    name: str
    series: Series
    #: The step with the lowest held-out loss, and whether its weights are those of the version.
    best_step: int | None = None
    kept: bool = False
    #: What the loss counts, such as "nats per token"; "": it differs by objective.
    loss_unit: str = ""

    def __getitem__(self, key: str) -> Buckets | None:
        """The series of a name, or None if it has no points."""
        found = self.series.series.get(key)
        return found if found is not None and found.step else None

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to draw."""
        return not any(self[key] for key in (LOSS, RATE, NORM, HELD_OUT))


def reduced(buckets: Buckets, most: int) -> Buckets:
    """Return a series in at most `most` buckets over equal ranges of steps. No value is left out: a spike of one step is
    the maximum of its bucket.
    """
    if len(buckets.step) <= most:
        return buckets
    first, width = buckets.first[0], buckets.step[-1] - buckets.first[0] + 1
    middles = enumerate((a + b) / 2 for a, b in zip(buckets.first, buckets.step, strict=True))
    grouped = [
        [at for at, _ in group] for _, group in groupby(middles, lambda one: int((one[1] - first) * most / width))
    ]
    return Buckets(
        first=[buckets.first[group[0]] for group in grouped],
        step=[buckets.step[group[-1]] for group in grouped],
        count=[sum(buckets.count[at] for at in group) for group in grouped],
        min=[min(buckets.min[at] for at in group) for group in grouped],
        max=[max(buckets.max[at] for at in group) for group in grouped],
        mean=[_mean(buckets, group) for group in grouped],
        last=[buckets.last[group[-1]] for group in grouped],
    )


def _mean(buckets: Buckets, group: Sequence[int]) -> float:
    total = sum(buckets.count[at] for at in group)
    # Divided first: the sum of the largest numbers would be infinite.
    return sum(buckets.mean[at] * (buckets.count[at] / total) for at in group)


def stretches(buckets: Buckets) -> Iterator[range]:
    """Yield the positions of buckets that a line connects: it stops where steps are missing."""
    ways = [after - before for before, after in zip(buckets.step, buckets.first[1:], strict=False)]
    widest = _GAP * sorted(ways)[len(ways) // 2] if ways else 0
    ends = [at + 1 for at, way in enumerate(ways) if way > widest]
    yield from (range(a, b) for a, b in pairwise([0, *ends, len(buckets.step)]))


def middle(buckets: Buckets, at: int) -> float:
    """Return the step at which a bucket is drawn: the middle of its steps."""
    return (buckets.first[at] + buckets.step[at]) / 2
