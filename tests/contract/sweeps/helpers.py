"""What these tests share: a namespace whose writer sweeps, and a worker that hands in what members would."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from contract.jobs.helpers import Crew
from support import calls
from support.adapters import SPEC
from support.registries import World

from registry.db.database import Database
from sdk.api import sweeps
from sdk.client import Client
from sdk.schemas.job_requests import BaseChoice, TrainingRequest
from sdk.schemas.jobs import JobView
from sdk.schemas.sweep_axes import Axis, Values
from sdk.schemas.sweeps import MemberResult, SweepRequest, SweepSubmission, SweepView
from sdk.schemas.work import Assignment

#: How many held-out rows members are scored on.
ROWS = 40


def packed(numbers: Any) -> str:
    """Return numbers as workers send those of rows."""
    return base64.b64encode(np.asarray(numbers, dtype="<f4").tobytes()).decode()


def result(loss: float, *, outcome: str = "finished", steps: int = 30, rows: int = ROWS, **said: Any) -> MemberResult:
    """Return what a member hands in whose rows have losses around one."""
    weights = np.full(rows, 4.0)
    losses = weights * (loss + np.random.default_rng(rows).normal(0.0, 0.05, rows))
    losses += (loss * weights.sum() - losses.sum()) / rows
    told = {"outcome": outcome, "steps": steps, "row_losses": packed(losses), "row_weights": packed(weights), **said}
    return MemberResult.model_validate(told)


def held_out_rows(folder: Path) -> Path:
    """Write rows that nobody trains on."""
    path = folder / "held_out.jsonl"
    path.write_text("".join(f'{{"prompt": "{number}", "completion": "c"}}\n' for number in range(ROWS)))
    return path


class Killed(BaseException):
    """The end of a process, which nothing in it can catch."""


@dataclass
class Kills:
    """How often this process was killed."""

    count: int = 0


@contextmanager
def killed(monkeypatch: pytest.MonkeyPatch, *, after: bool) -> Iterator[Kills]:
    """Kill this thread right before, or right after, the first commit in the block."""
    begin, mine, kills = Database.write, threading.get_ident(), Kills()

    @contextmanager
    def write(self: Database, **given: Any) -> Iterator[Any]:
        doomed = threading.get_ident() == mine
        with begin(self, **given) as session:
            yield session
            if doomed and not after:
                kills.count += 1
                raise Killed
        if doomed:
            kills.count += 1
            raise Killed

    with monkeypatch.context() as patched, suppress(Killed):
        patched.setattr(Database, "write", write)
        yield kills


@dataclass
class Desk:
    """A crew that sweeps."""

    crew: Crew
    held_out: str

    @property
    def writer(self) -> Client:
        return self.crew.writer

    @property
    def world(self) -> World:
        return self.crew.world

    def request(self, *, settings: dict[str, Axis] | None = None, training: Any = None, **asked: Any) -> SweepRequest:
        told = TrainingRequest(
            adapter=f"{self.crew.space}/a",
            base=BaseChoice(id="tiny"),
            data=self.crew.data,
            eval_data=self.held_out,
            spec=SPEC,
        ).model_copy(update=training or {})
        axes = settings or {"lr": Values(values=[1e-4, 2e-4, 4e-4])}
        return SweepRequest(training=told, settings=axes, **asked)

    def begin(self, *, key: str | None = None, by: Client | None = None, priority: int = 0, **asked: Any) -> SweepView:
        submission = SweepSubmission(request=self.request(**asked), priority=priority)
        return sweeps.submit((by or self.writer).transport, submission, key=key)

    def view(self, sweep: SweepView) -> SweepView:
        return sweeps.get(self.writer.transport, sweep.id)

    def hold(self) -> Assignment:
        return self.crew.hold()

    def finish(self, held: Assignment, loss: float, *, metrics: dict[str, float] | None = None, **said: Any) -> JobView:
        """Hand in an adapter that nobody has, with this held-out loss."""
        spec = held.request.spec
        told = {
            "training": {**spec.recorded(), "total_steps": 30},
            "metrics": {"loss": 1.0, "eval_loss": loss, "train_s": 1.0, **(metrics or {})},
        }
        told_of = calls.complete(
            self.crew.worker, held, version=self.crew.publication(**told), member=result(loss, **said)
        )
        self.go_on()
        return told_of

    def go_on(self) -> None:
        """Let sweeps end, as the reconciler does."""
        self.world.services.followers.ask()

    def train_all(self, *losses: float) -> None:
        """Finish the members that are given out one after another, with these losses."""
        for loss in losses:
            self.finish(self.hold(), loss)
