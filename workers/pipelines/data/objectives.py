"""The objectives of trainings, by their names in a spec."""

from __future__ import annotations

from collections.abc import Callable

from sdk.schemas.training import TrainingSpec
from workers.pipelines.data.batches import SFT
from workers.pipelines.data.classify import CLASSIFY
from workers.pipelines.data.kto import kto
from workers.pipelines.data.objective import Objective
from workers.pipelines.data.preferences import dpo, ipo
from workers.pipelines.data.reference_free import orpo, simpo

#: What makes each from the options of a training, whose rows have at most `max_length` tokens; `sdk.formats.objectives.OBJECTIVES` has what else is known of it.
MADE: dict[str, Callable[[TrainingSpec], Objective]] = {
    "sft": lambda spec: SFT,
    "classify": lambda spec: CLASSIFY,
    "dpo": dpo,
    "ipo": ipo,
    "orpo": orpo,
    "simpo": simpo,
    "kto": kto,
}
