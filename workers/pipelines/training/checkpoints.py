"""Checkpoints of a training: what one contains, when one is due, and how it is written so that it is complete or absent.

The folder's name appears by one rename after every byte is on disk:

>>> checkpoint_name(12)
'step-00000012'
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, FiniteFloat, model_validator

from sdk.formats.adapter_files import CONFIG_FILE, WEIGHTS_FILE
from sdk.schemas.failures import FailureReason
from sdk.schemas.job_requests import CheckpointPolicy
from sdk.schemas.looks import LookRecord
from sdk.schemas.training_report import TrainingReport
from sdk.schemas.wire import IF_SET, JsonScalar, Sha256, Wire, digest_of
from sdk.whole_files import give_name, sync
from workers.pipelines.errors import PipelineError
from workers.pipelines.model.adapters import save_tensors
from workers.pipelines.orders import Fit
from workers.pipelines.training.states import Standing, States

OPTIMIZER_NAME = "optimizer.safetensors"
GENERATORS_NAME = "generators.safetensors"
PROGRESS_NAME = "progress.json"
REPORT_NAME = "report.json"
RECORD_NAME = "record.json"
#: Of a training that looked at held-out rows: the losses of rows at two looks, and the weights of the best one if these are
#: to be published.
LOSSES_NAME = "losses.safetensors"
BEST_NAME = "best.safetensors"
#: Files that not every checkpoint has.
OPTIONAL_FILES = frozenset({LOSSES_NAME, BEST_NAME})
#: The files in a checkpoint's folder, tensors and JSON, besides `SERVING_FILES`.
FILES = frozenset(
    {
        CONFIG_FILE,
        WEIGHTS_FILE,
        OPTIMIZER_NAME,
        GENERATORS_NAME,
        PROGRESS_NAME,
        REPORT_NAME,
        RECORD_NAME,
    }
)


class Interrupted(Exception):  # noqa: N818 - it reads as what happened
    """A training stopped because it was asked to; `step` is the newest checkpoint's step, 0 if there is none."""

    def __init__(self, step: int) -> None:
        super().__init__(f"The training stopped at step {step}, as requested.")
        self.step = step


class LookState(Wire):
    """The looks of a training so far."""

    #: After how many steps one comes; None: that is not counted yet, or none comes before the end.
    interval: Annotated[int, Field(ge=1)] | None = None
    looks: list[LookRecord] = Field(default_factory=list)


class Record(Wire):
    """What our own record of a training must keep to resume as if it had never stopped."""

    step: Annotated[int, Field(ge=1)]
    total: Annotated[int, Field(ge=1)]
    #: The loss of each step so far.
    losses: list[float]
    rates: list[float]
    #: What else each step measured, by the name of its series.
    measured: Annotated[dict[str, list[FiniteFloat | None]], Field(default_factory=dict)]
    #: Tokens without padding so far.
    tokens: Annotated[int, Field(ge=0)]
    #: Seconds so far, over all processes that took part.
    train_s: Annotated[float, Field(ge=0)]
    #: The loss of the bare base on the held-out rows, if there are any.
    eval_loss_base: float | None
    #: The same of the held-out rows by which nothing is chosen.
    test_loss_base: Annotated[float | None, IF_SET] = None
    #: How a quantised base is held, which changes the last digits of each product.
    base_weights: Literal["native", "packed", "wide"]
    #: How much of a step is computed at once, which changes last digits too.
    fit: Fit
    #: With which settings memory has run out so far, and what followed, in words.
    memory_steps: Annotated[list[str], Field(default_factory=list, exclude_if=lambda value: not value)]
    #: The adapter matrices that no gradient has reached yet.
    unreached: list[str]
    #: The gradient scaler's state if the computation is in float16.
    scaler: dict[str, int | float] | None
    look_state: Annotated[LookState, Field(default_factory=LookState)]
    #: Of each rung of its sweep that it has reached, in order, whether it goes on; None: there is no answer yet.
    rungs: Annotated[list[bool | None], Field(default_factory=list, exclude_if=lambda value: not value)]
    #: Everything that determines the training.
    configuration: dict[str, JsonScalar]
    #: The digest of the configuration.
    digest: Sha256

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Record:
        if not len(self.losses) == len(self.rates) == self.step <= self.total:
            raise ValueError(f"{len(self.losses)} losses and {len(self.rates)} rates at step {self.step}")
        if any(len(column) != self.step for column in self.measured.values()):
            raise ValueError(f"the series don't have {self.step} steps")
        if self.digest != digest_of(self.configuration):
            raise ValueError("the digest is not the configuration's")
        return self


@dataclass(frozen=True)
class Resumed:
    """A checkpoint that was read, and found to be complete and of this training."""

    folder: Path
    record: Record
    standing: Standing


class Pace:
    """Decides after which steps a checkpoint is due."""

    def __init__(self, policy: CheckpointPolicy) -> None:
        self._policy = policy
        self._last = time.monotonic()

    def is_due(self, step: int) -> bool:
        """Whether one is due after `step`, which has just ended."""
        every, minutes = self._policy.every_steps, self._policy.every_minutes
        if every is not None and step % every == 0:
            return True
        return minutes is not None and time.monotonic() - self._last >= minutes * 60

    def wrote(self) -> None:
        """Restart the count of seconds to the next one."""
        self._last = time.monotonic()


def checkpoint_name(step: int) -> str:
    """Return the name of the folder of the checkpoint after `step`."""
    return f"step-{step:08d}"


def broken_checkpoint(what: str) -> PipelineError:
    """Return the error of a checkpoint that no training can resume from."""
    return PipelineError(
        FailureReason.CHECKPOINT, f"The checkpoint is broken: {what}; submit the training again from the beginning."
    )


def write_checkpoint(
    folder: Path,
    *,
    record: Record,
    report: TrainingReport,
    states: States,
    write_adapter: Callable[[Path], None],
    write_looks: Callable[[Path], None],
) -> Path:
    """Write a checkpoint's files under a temporary name, sync them to disk, and rename them into `folder`; return the path.

    An earlier checkpoint of the same step is replaced. Raises OSError if the disk is full; then nothing is left.
    """
    name = checkpoint_name(record.step)
    partial, target = folder / f".partial-{name}", folder / name
    folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        write_adapter(partial)
        write_looks(partial)
        save_tensors(states.optimizer, partial / OPTIMIZER_NAME)
        save_tensors(states.generators, partial / GENERATORS_NAME)
        (partial / PROGRESS_NAME).write_text(states.standing.model_dump_json(), encoding="utf-8")
        (partial / REPORT_NAME).write_text(report.model_dump_json(), encoding="utf-8")
        (partial / RECORD_NAME).write_text(record.model_dump_json(), encoding="utf-8")
        sync(*partial.iterdir(), partial)
        _put(partial, target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return target


def _put(partial: Path, target: Path) -> None:
    """Rename a complete folder. No rename replaces a folder with files, so an old one is moved away first."""
    old = target.with_name(f".partial-old-{target.name}")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    give_name(partial, target, durable=True)
    shutil.rmtree(old, ignore_errors=True)
