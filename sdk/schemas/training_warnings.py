"""What its own numbers say against a training that ended well.

>>> worse = {"eval_loss_base": 6.6, "eval_loss": 7.72, "first_loss": 6.5, "last_loss": 5.1, "largest_update": 430.0}
>>> for warning in training_warnings(TrainingRecord(), worse):
...     print(warning)
the loss of the held-out rows rose from 6.6 to 7.72, so they are predicted worse than before; try a lower lr, fewer steps or other rows
the update of a module is 430 times as large as its weights (‖ΔW‖/‖W‖); try a lower lr or alpha
>>> training_warnings(TrainingRecord(), {"eval_loss_base": 6.6, "eval_loss": 5.2, "first_loss": 6.5, "last_loss": 6.6})
[]
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from sdk.schemas.advice import BY_HEART, DIVERGING, Advice
from sdk.schemas.version_records import TrainingRecord

#: Dropout, and other rows at the end than at the beginning, move a training's loss by less than this ratio.
_HIGHER = 1.02
#: An update that is far larger than the weights does not adapt them, but replaces them. Good trainings of tiny bases had up to
#: 3, and those at 30 times a good rate 10 to 220.
MOST_UPDATE = 4.0


def held_out_losses(metrics: Mapping[str, float]) -> tuple[float, float] | None:
    """Return the loss of the held-out rows before and after a training; None if there were none.

    Preferences learnt against a version begin at that version: the bare base's loss is not theirs. Older records don't
    have it; it is the log 2 of dpo.
    """
    if "eval_loss" not in metrics:
        return None
    of_parent = math.log(2) if "eval_chosen_loss_parent" in metrics else metrics.get("eval_loss_base", math.nan)
    return metrics.get("eval_loss_parent", of_parent), metrics["eval_loss"]


def training_warnings(record: TrainingRecord, metrics: Mapping[str, float], advice: Sequence[Advice] = ()) -> list[str]:
    """Return what to say of a training with such a record and metrics, each a clause that ends with what to do.

    What it is advised by its steps comes first; where the record names such a rule, the first and the last loss say
    nothing of the same.
    """
    found = [] if record.held_out_warning is None else [record.held_out_warning]
    found += [one.message for one in advice]
    rules = set((record.advice or "").split(","))
    before, after = held_out_losses(metrics) or (math.nan, math.nan)
    if rules.isdisjoint((BY_HEART, DIVERGING)) and after > before and f"{after:.4g}" != f"{before:.4g}":
        found.append(
            f"the loss of the held-out rows rose from {before:.4g} to {after:.4g}, so they are predicted worse than before;"
            " try a lower lr, fewer steps or other rows"
        )
    first, last = metrics.get("first_loss", math.nan), metrics.get("last_loss", math.nan)
    if DIVERGING not in rules and last > first * _HIGHER:
        found.append(
            f"the training's loss ended above its beginning ({first:.4g} → {last:.4g}); try a lower lr, a longer warm-up or a"
            " larger effective batch"
        )
    update = metrics.get("largest_update", 0.0)
    if DIVERGING not in rules and update > MOST_UPDATE:
        found.append(f"{update_said(update)}; try a lower lr or alpha")
    return found


def update_said(update: float) -> str:
    """Say how large the largest update of a training's modules is, as a clause."""
    return f"the update of a module is {update:.3g} times as large as its weights (‖ΔW‖/‖W‖)"
