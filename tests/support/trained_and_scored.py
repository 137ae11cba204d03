"""Versions that were trained with curves, and scored row by row, for pages and reports that put them side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sdk.schemas.evaluation import RowScore, Sample
from support import calls
from support.adapters import SPEC, base_registration, use_of
from support.compared import COLUMNS, write_rows
from support.merging_desk import MergingDesk
from support.people import new_adapter, submit, training
from support.points import Sender
from support.registries import World
from support.scored_rows import CONDITIONS, evaluated
from support.seeded_curves import measured


class Trainer:
    """Trains and scores versions of one adapter over one base, on the same rows."""

    def __init__(self, world: World, folder: Path, name: str = "sql") -> None:
        base = world.admin.bases.register(base_registration())
        self.world, self.folder, self.name = world, folder, name
        self.desk = MergingDesk(world.writer, world.worker, name.rpartition("/")[0] or "-", folder, base, folder)
        self.rows = write_rows(folder / "heldout.jsonl")
        trained_on = folder / "train.jsonl"
        trained_on.write_text('{"prompt": "a", "completion": "b"}\n')
        self.data = world.writer.datasets.add(trained_on, name="reviews").digest

    def train(self, *, steps: int = 400, seed: int = 1, **settings: Any) -> str:
        """Train a version; return its ref."""
        body = training(self.name, self.data)
        spec = SPEC.model_copy(update=settings)
        request = body.request.model_copy(update={"spec": spec})
        submit(self.world.writer, body.model_copy(update={"request": request}))
        held = calls.hold(self.world.worker)
        Sender(self.world.worker, held).send_all(measured(steps, seed=seed))
        told = {
            "dataset": use_of(self.data),
            "training": {"objective": "sft", "lr": spec.lr, "total_steps": steps},
            "metrics": {"loss": 1.31, "eval_loss": 1.45, "train_s": 612.0},
            "libraries": {"torch": "2.9.0"},
        }
        version = calls.publication(self.world.worker, new_adapter(self.folder), self.name, **told)
        result = calls.complete(self.world.worker, held, version=version).result
        assert result is not None
        return str(result["ref"])

    def score(
        self,
        ref: str,
        rows: Sequence[RowScore],
        *,
        data: Path | None = None,
        samples: Sequence[Sample] = (),
        **conditions: Any,
    ) -> str:
        """Score a version by row; return the id of its scores."""
        taken = CONDITIONS.model_copy(update={"columns": COLUMNS, **conditions})
        given = {"spec": {"columns": COLUMNS}, "conditions": taken}
        return evaluated(self.desk, ref, data or self.rows, rows, **given, **({"samples": samples} if samples else {}))
