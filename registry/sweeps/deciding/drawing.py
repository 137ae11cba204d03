"""Settings at random.

>>> from sdk.schemas.sweep_axes import Range, Values
>>> axes = {"lr": Range(low=1e-4, high=1e-3, log=True), "rank": Values(values=[1, 4, 16])}
>>> [drawn(axes, seed="s", trial=trial) for trial in (1, 2)]
[{'lr': 0.000194, 'rank': 4}, {'lr': 0.000526, 'rank': 4}]
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping

from sdk.schemas.sweep_axes import Axis, Setting, Values
from sdk.schemas.sweep_grid import at, between, readable
from sdk.schemas.wire import JsonScalar

#: The bits of a double.
_BITS = 53


def drawn(settings: Mapping[str, Axis], *, seed: str, trial: int) -> Setting:
    """Return the setting of a trial: of each option one of its values, or a number of its range, all equally likely.

    In a log range equal ratios are equally likely. Each option depends on its name, the seed and the trial alone.
    """
    return {name: _drawn(axis, _share(seed, trial, name)) for name, axis in settings.items()}


def number_of(*parts: str | int, bits: int) -> int:
    """Return a number of so many bits that depends on the parts alone, and looks like a random one."""
    digest = hashlib.sha256(json.dumps(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> (64 - bits)


def _share(seed: str, trial: int, name: str) -> float:
    """Return a number from 0 to below 1."""
    return math.ldexp(number_of(seed, trial, name, bits=_BITS), -_BITS)


def _drawn(axis: Axis, share: float) -> JsonScalar:
    if isinstance(axis, Values):
        return axis.values[int(share * len(axis.values))]
    if not axis.whole:
        return at(axis, share)
    # A whole number stands for all that is rounded to it, the ends too.
    return readable(axis, between(axis.low - 0.5, axis.high + 0.5, share, log=axis.log))
