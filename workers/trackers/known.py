"""Which trackers there are, and of which this worker has the library."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.util import find_spec

from sdk.schemas.trackers import TRACKERS, TrackerName
from workers.trackers.tracker import Tracker


@cache
def installed_trackers() -> list[TrackerName]:
    """Return the trackers whose libraries were installed when this process began; none is imported."""
    return [name for name in TRACKERS if find_spec(name) is not None]


def tracker(name: TrackerName) -> Tracker:
    """Return a tracker. Raises ImportError without its library."""
    made: Tracker = import_module(f"workers.trackers.to_{name}").TRACKER()
    return made
