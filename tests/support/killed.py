"""Trainings in forks that are killed, and go on from their last checkpoints."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import torch

from sdk.schemas.events import Progress
from sdk.schemas.recorded import RecordedTraining
from sdk.schemas.training import TrainingSpec
from support.trainings import Checkpoints, files_of, run_training

DAY = date(2026, 1, 31)


@dataclass
class Killable:
    """A training over a base that writes a checkpoint after each step; each run of it has a folder of its own."""

    folder: Path
    base: Path
    rows: Path
    spec: TrainingSpec
    like: RecordedTraining | None = None

    def run(
        self, name: str, on_progress: Callable[[Progress], None], resume: Path | None = None, *, day: date = DAY
    ) -> int:
        """Train in a fork; return how that ended, as `waitpid` says it."""
        child = os.fork()
        if child == 0:
            status = 1
            try:
                torch.set_num_threads(1)
                run_training(
                    self.base,
                    self.rows,
                    self.folder / name / "out",
                    eval_data=self.rows,
                    spec=self.spec,
                    on_progress=on_progress,
                    checkpoints=Checkpoints(self.folder / name / "checkpoints", every_steps=1, resume=resume),
                    day=day,
                    like=self.like,
                )
                status = 0
            except Exception:  # noqa: BLE001 - the fork says it and ends
                os.write(2, traceback.format_exc().encode())
            finally:
                os._exit(status)
        return os.waitpid(child, 0)[1]

    def made(self, name: str) -> dict[str, bytes]:
        """What a run wrote, by name."""
        return files_of(self.folder / name / "out")

    def kept(self, name: str) -> list[Path]:
        """The checkpoints of a run, the last one last."""
        return sorted((self.folder / name / "checkpoints").glob("step-*"))

    def killed_and_gone_on(self, name: str, phase: str, times: int) -> list[Path]:
        """Kill a training when it reports for so many times that it is in a phase, and let it go on; return the
        checkpoints that it had by then.
        """
        left = iter(range(times, 0, -1))

        def kill(progress: Progress) -> None:
            if progress.phase == phase and next(left) == 1:
                os.kill(os.getpid(), signal.SIGKILL)

        assert os.WTERMSIG(self.run(name, kill)) == signal.SIGKILL
        kept = self.kept(name)
        assert self.run(name, lambda progress: None, resume=kept[-1] if kept else None) == 0
        return kept
