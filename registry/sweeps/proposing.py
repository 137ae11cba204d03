"""Which setting is tried next."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

from registry.errors import Invalid, Unavailable
from sdk.schemas.sweep_axes import Axis, Setting, Values
from sdk.schemas.sweeps import SweepRequest


def grid_of(settings: Mapping[str, Axis]) -> list[Setting]:
    """Return all settings of a grid, the first axis the slowest. Raises Invalid."""
    values = [axis.values for axis in settings.values() if isinstance(axis, Values)]
    if len(values) < len(settings):
        raise Invalid("a grid needs values, or ranges with a count", param="settings")
    return [dict(zip(settings, each, strict=True)) for each in product(*values)]


def setting_of(request: SweepRequest, *, seed: str, trial: int) -> Setting:
    """Return the setting of a trial. Raises Invalid."""
    if request.sample != "grid":
        raise Unavailable(f"sample {request.sample} is not there yet")
    return grid_of(request.settings)[trial - 1]
