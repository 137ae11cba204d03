"""Which members go on at a rung, by the held-out losses of those that have come to it so far.

>>> halving_goes_on([2.0], 0), halving_goes_on([2.0, 2.5], 1), halving_goes_on([2.0, 2.5, 1.9], 2)
(True, False, True)
>>> median_goes_on([2.0, 2.1, 2.2, 2.3, 2.16], 4), median_goes_on([2.0, 2.1, 2.2, 2.3, 2.14], 4)
(False, True)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

#: Of so many members one goes on.
ETA = 4
#: The shares of the steps at which members are compared; the end of the steps is the last rung of halving.
HALVING_RUNGS = (0.1, 0.4)
MEDIAN_RUNGS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
#: So many others have passed a rung before any is ended there by the median.
LEAST_OTHERS = 4


def halving_goes_on(losses: Sequence[float], at: int) -> bool:
    """Say whether a member goes on by asynchronous successive halving with η = 4 (arXiv:1810.05934).

    `losses` are those of a rung, in the order in which members came to it, of which the asking one is number `at`, from 0. It goes on if
    it is among the best quarter of those so far, or the best of fewer than four. Later ones change nothing, so that an
    answer that is asked for again is the same.
    """
    before, own = _so_far(losses, at)
    better = sum(loss < own for loss in before)
    return math.isfinite(own) and better < max(1, (at + 1) // ETA)


def median_goes_on(losses: Sequence[float], at: int) -> bool:
    """Say whether a member goes on by the median rule (Golovin et al., Google Vizier, KDD 2017, section 3.2.2): its loss is not above
    the median of those that passed the rung before it, once there are four.

    The arguments are those of `halving_goes_on`.
    """
    before, own = _so_far(losses, at)
    return math.isfinite(own) and (len(before) < LEAST_OTHERS or own <= median(before))


def _so_far(losses: Sequence[float], at: int) -> tuple[list[float], float]:
    """Return the losses before one, and its own; what is no number is larger than any."""
    seen = [loss if math.isfinite(loss) else math.inf for loss in losses[: at + 1]]
    return seen[:-1], seen[-1]
