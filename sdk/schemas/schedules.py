"""How the learning rate may change after the warm-up, and which options belong to which of these schedules.

>>> warmup_steps(0.03, 100), warmup_steps(0.9, 2)
(3, 1)
>>> clash_of_schedule("linear", {"lr_floor"}, warmup_ratio=0.03)
'lr_floor belongs to the schedules cosine, cosine_restarts, wsd, inverse_sqrt, and the schedule is linear; leave it out, or choose one of these'
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Literal, get_args

ScheduleName = Literal["cosine", "linear", "constant", "cosine_restarts", "wsd", "inverse_sqrt"]
#: The options that each has besides the peak and the warm-up.
SCHEDULES: dict[ScheduleName, tuple[str, ...]] = {
    "cosine": ("lr_floor",),
    "linear": (),
    "constant": (),
    "cosine_restarts": ("lr_floor", "cycles"),
    "wsd": ("lr_floor", "decay_share"),
    "inverse_sqrt": ("lr_floor",),
}
assert SCHEDULES.keys() == set(get_args(ScheduleName))
#: As in arXiv:2405.18392.
DEFAULT_DECAY_SHARE = 0.2


def warmup_steps(ratio: float, total: int) -> int:
    """Return how many of `total` steps the warm-up has: never all, so the peak is always reached."""
    return min(math.ceil(ratio * total), total - 1)


def clash_of_schedule(
    schedule: ScheduleName,
    given: Collection[str],
    *,
    warmup_ratio: float,
    cycles: int | None = None,
    decay_share: float = DEFAULT_DECAY_SHARE,
) -> str | None:
    """Say what contradicts a schedule, and what to do; None if nothing does. `given` are the names of the options that
    somebody chose.
    """
    for option in ("lr_floor", "cycles", "decay_share"):
        if option in given and option not in SCHEDULES[schedule]:
            those = [name for name, options in SCHEDULES.items() if option in options]
            some = f"schedules {', '.join(those)}" if len(those) > 1 else f"schedule {those[0]}"
            instead = "one of these" if len(those) > 1 else those[0]
            return f"{option} belongs to the {some}, and the schedule is {schedule}; leave it out, or choose {instead}"
    if schedule == "cosine_restarts" and cycles is None:
        return "cosine_restarts needs to know how often the rate falls; give cycles, such as 3"
    if schedule == "wsd" and warmup_ratio + decay_share > 1:
        return (
            f"the warm-up has {warmup_ratio:g} of the steps and the decay {decay_share:g}, together more than all; lower"
            " warmup_ratio or decay_share"
        )
    if schedule == "inverse_sqrt" and warmup_ratio == 0:
        return "inverse_sqrt falls in units of the warm-up, and there is none; give warmup_ratio above 0"
    return None


def clash_of_cycles(cycles: int | None, *, warmup_ratio: float, total: int) -> str | None:
    """Say that a training of `total` steps has too few for so many cycles, and what to do."""
    left = total - warmup_steps(warmup_ratio, total)
    if cycles is None or cycles <= left:
        return None
    return f"{cycles} cycles need {cycles} steps after the warm-up, and there are {left}; give at most {left} cycles"
