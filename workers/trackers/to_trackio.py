"""Trackio: a run of the project `TRACKIO_PROJECT`, in the database of `TRACKIO_DIR`, a Space or a server of one's own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import trackio

from sdk.schemas.series import Point
from workers.trackers.tracker import BegunRun, RunEnd, Training, shown

_DEFAULT_PROJECT = "adapterctl"


class ToTrackio:
    """A run of a project. Trackio doesn't say how runs ended."""

    def __init__(self) -> None:
        self._run: Any = None

    def begin(self, training: Training, run: str | None) -> BegunRun:
        """Begin a run, or go on with one; runs are found by their names. Raises ValueError, OSError."""
        name = run or training.title
        self._run = trackio.init(
            project=os.environ.get("TRACKIO_PROJECT") or _DEFAULT_PROJECT,
            name=name,
            group=training.group,
            resume="allow",
            config={key: shown(value) if isinstance(value, str) else value for key, value in training.params.items()},
            embed=False,
            auto_log_cpu=False,
            auto_log_gpu=False,
        )
        return BegunRun(name, continues=run is not None)

    def log(self, points: Sequence[Point], at_s: float) -> None:
        """Hand points to its thread."""
        for point in points:
            self._run.log(dict(point.values), step=point.step)

    def end(self, end: RunEnd | None) -> None:
        """Wait until its thread has stored everything."""
        self._run.finish()


TRACKER = ToTrackio
