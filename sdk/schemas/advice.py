"""What a training's own numbers say should be done otherwise.

>>> found = [
...     Advice(rule="by_heart", message="the held-out loss rose", changes={"epochs": 1.0}),
...     Advice(rule="spikes", message="the loss jumped", changes={"epochs": 2.0, "max_grad_norm": 0.3}),
... ]
>>> changes_of(found)
{'epochs': 1.0, 'max_grad_norm': 0.3}
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field, StringConstraints

from sdk.schemas.wire import JsonScalar, Wire

#: More than there are rules.
MOST_ADVICE = 16
#: The rules of this release: a rate under which a training diverges, a loss that does not fall, rows that are learnt by heart,
#: a run of rows that stand out, steps that do, and a warm-up that takes most of the steps.
DIVERGING, FLAT, BY_HEART, WARMUP = "diverging", "flat", "by_heart", "warmup"
BROKEN_ROWS, SPIKES = "broken_rows", "spikes"


class Advice(Wire):
    """One thing that a training's numbers show, and what to change."""

    #: The rule that says so, of this release or of a newer one.
    rule: Annotated[str, StringConstraints(pattern=r"^[a-z_]{1,40}$")]
    #: A clause with the numbers of this training, which ends with what to do.
    message: Annotated[str, Field(min_length=1, max_length=1_000)]
    #: Options of a training by name, with the value to try.
    changes: Annotated[dict[str, JsonScalar], Field(max_length=16)] = {}


#: What a training is advised, the most important first.
AdviceList = Annotated[list[Advice], Field(max_length=MOST_ADVICE)]


def changes_of(advice: Sequence[Advice]) -> dict[str, JsonScalar]:
    """Return what all advice together changes: where two want the same option, the first one decides."""
    found: dict[str, JsonScalar] = {}
    for one in advice:
        found |= {name: value for name, value in one.changes.items() if name not in found}
    return found
