"""How long the long tests are: full length in a soak, a small share of it in other runs."""

from __future__ import annotations

import os

#: Whether everything is run in full.
SOAKING = os.environ.get("ADAPTERCTL_SOAK") == "1"
#: Whether every family, variant and type is tried.
MATRIX = os.environ.get("ADAPTERCTL_MATRIX") == "1"


def scale(full: int, *, share: int = 20) -> int:
    """Return how many of `full` repetitions this run does: all in a soak, one in `share` otherwise, which is enough to
    find a planted fault.
    """
    return full if SOAKING else max(1, full // share)
