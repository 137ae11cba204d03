"""How long the long tests are: in full for a soak, a twentieth of it in every run."""

from __future__ import annotations

import os

#: Whether everything is run in full.
SOAKING = os.environ.get("ADAPTERCTL_SOAK") == "1"


def scale(full: int) -> int:
    """Return how many of `full` repetitions this run does."""
    return full if SOAKING else max(1, full // 20)
