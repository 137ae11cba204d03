"""Which members go on at a rung, by the held-out losses of those that have come to it so far.

>>> [halving_goes_on([2.0, 2.1, 2.2], at, rung=0) for at in (0, 1, 2)], halving_goes_on([2.0, 2.1], 1, rung=1)
([True, True, False], False)
>>> median_goes_on([2.0, 2.1, 2.2, 2.3, 2.16], 4), median_goes_on([2.0, 2.1, 2.2, 2.3, 2.14], 4)
(False, True)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from sdk.schemas.sweeps import HALVING_RUNGS as HALVING_RUNGS
from sdk.schemas.sweeps import MEDIAN_RUNGS as MEDIAN_RUNGS

#: So many others have passed a rung before any is ended there by the median.
LEAST_OTHERS = 4


@dataclass(frozen=True)
class _Kept:
    """Which members go on at a rung of halving."""

    #: The best share of those so far,
    share: float
    #: but not fewer than so many,
    least: int
    #: and whoever has a loss that is larger than theirs by no more than this share of it.
    near: float


#: With a quarter kept at both rungs, as η = 4 says, the winner of recorded grids of rates was lost in half of all orders: after a
#: tenth of its steps a training with the best rate is often not yet ahead. RESULTS.md has the figures.
_KEPT = (_Kept(share=0.4, least=2, near=0.03), _Kept(share=0.25, least=1, near=0.01))


def halving_goes_on(losses: Sequence[float], at: int, rung: int = 0) -> bool:
    """Say whether a member goes on by asynchronous successive halving (arXiv:1810.05934).

    `losses` are those of a rung, counted from 0, in the order in which members came to it, of which the asking one is number `at`, from 0.
    At the first rung it goes on if it is among the best two fifths of those so far, or of the best two, or within 3 % of these; at
    the second if it is among the best quarter, or the best, or within 1 %. Later members change nothing, so that an answer that is
    asked for again is the same.
    """
    before, own = _so_far(losses, at)
    kept = _KEPT[rung]
    best = sorted([*before, own])[: max(kept.least, int(kept.share * (at + 1)))]
    return math.isfinite(own) and own <= best[-1] * (1 + kept.near)


def median_goes_on(losses: Sequence[float], at: int, rung: int = 0) -> bool:
    """Say whether a member goes on by the median rule (Golovin et al., Google Vizier, KDD 2017, section 3.2.2): its loss is not above
    the median of those that passed the rung before it, once there are four.

    The arguments are those of `halving_goes_on`, of which the rung makes no difference.
    """
    before, own = _so_far(losses, at)
    return math.isfinite(own) and (len(before) < LEAST_OTHERS or own <= median(before))


def _so_far(losses: Sequence[float], at: int) -> tuple[list[float], float]:
    """Return the losses before one, and its own; what is not a number is larger than any."""
    seen = [loss if math.isfinite(loss) else math.inf for loss in losses[: at + 1]]
    return seen[:-1], seen[-1]
