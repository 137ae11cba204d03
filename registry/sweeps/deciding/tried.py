"""What became of the settings that a sweep has tried so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from sdk.schemas.sweep_axes import Setting


@dataclass(frozen=True)
class Tried:
    """One trial of a sweep: a setting, and what is known of its members."""

    #: Counts from 1.
    trial: int
    setting: Setting
    state: Literal["running", "finished", "pruned", "failed"]
    #: Of a finished trial, in units of the metric that chooses.
    score: float | None = None
    #: The held-out loss at each rung that was reached, by the rung's share of the steps.
    steps: Mapping[float, float] = field(default_factory=dict)


def alike(setting: Setting, past: Sequence[Tried]) -> Tried | None:
    """Return the first earlier trial of the same setting, whose members and scores can be used again; None if there is none."""
    return next((tried for tried in past if tried.setting == setting), None)
