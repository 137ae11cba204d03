"""Weights & Biases: a run of the project `WANDB_PROJECT`, sent by its own process, or kept in files (`WANDB_MODE=offline`).

Its own count of steps only rises, so the step of the training is a metric of its own, which the others are drawn over.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from typing import Any

import wandb

from sdk.schemas.series import Point
from workers.trackers.tracker import BegunRun, RunEnd, Training, shown

_DEFAULT_PROJECT = "adapterctl"
_STEP = "step"
#: The exit status by which it tells the ends apart.
_STATUS = {"finished": 0, "failed": 1, "killed": 255}
_INIT_S = 15.0
#: Its files are called by the second in which a run begins, and a run that goes on within that second would lose them.
_APART_S = 1.1
_beginning = threading.Lock()


class ToWandb:
    """A run of a project."""

    def __init__(self) -> None:
        self._run: Any = None

    def begin(self, training: Training, run: str | None) -> BegunRun:
        """Begin the run of the job, or go on with one. Raises wandb.Error."""
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        # Nothing of this machine or process is collected: the run is the training's alone.
        settings = wandb.Settings(
            console="off",
            disable_code=True,
            disable_git=True,
            save_code=False,
            silent=True,
            init_timeout=_INIT_S,
            x_disable_machine_info=True,
            x_disable_meta=True,
            x_disable_stats=True,
        )
        with _beginning:
            time.sleep(_APART_S)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or _DEFAULT_PROJECT,
            id=run or training.job,
            name=training.title,
            group=training.group,
            resume="allow",
            reinit="create_new",
            config={name: shown(value) if isinstance(value, str) else value for name, value in training.params.items()},
            settings=settings,
        )
        self._run.define_metric(_STEP, hidden=True)
        self._run.define_metric("*", step_metric=_STEP)
        return BegunRun(self._run.id, continues=self._run.id == run)

    def log(self, points: Sequence[Point], at_s: float) -> None:
        """Hand points to its process. Raises wandb.Error."""
        for point in points:
            self._run.log({_STEP: point.step, **point.values})

    def end(self, end: RunEnd | None) -> None:
        """Have its process send what is left, and end the run. Raises wandb.Error."""
        if end is None:
            self._run.mark_preempting()
        self._run.finish(exit_code=_STATUS["killed" if end is None else end])


TRACKER = ToWandb
