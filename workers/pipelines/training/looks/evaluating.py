"""Held-out rows of a training, scored before its first step, after its last one, and at looks in between."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sdk.schemas.events import Progress
from workers.pipelines.data.batches import longest_first
from workers.pipelines.data.examples import Example
from workers.pipelines.data.objective import HeldOut, Look
from workers.pipelines.model.device import is_out_of_memory
from workers.pipelines.training.fitting import Fitting
from workers.pipelines.training.inputs import Inputs
from workers.pipelines.training.looks.row_losses import RowLosses
from workers.pipelines.training.optimising import diverged


@dataclass(frozen=True)
class HeldOutScores:
    """The scores of rows by name, of which "loss" is the one that is minimised, and of each of them."""

    scores: dict[str, float]
    rows: RowLosses


def held_out_scores(
    given: Inputs, model: Any, fitting: Fitting, report: Callable[[Progress], None]
) -> dict[str, float]:
    """Return the loss of held-out rows, and the other scores of the objective.

    Empty if there are no held-out rows. If memory runs out, they are scored again in smaller parts. Raises PipelineError
    ("diverged", "oom").
    """
    return {} if given.held_out is None else scored(given, given.held_out.examples, model, fitting, report).scores


def scored(
    given: Inputs,
    examples: Sequence[Example],
    model: Any,
    fitting: Fitting,
    report: Callable[[Progress], None],
    *,
    where: str = "the evaluation",
    begin: Callable[[int], None] = lambda rows: None,
) -> HeldOutScores:
    """Return the scores of examples, and each row's. If memory runs out in `where`, they are scored again in smaller parts;
    `begin` is told before each try how many rows a pass has.

    Raises PipelineError ("diverged", "oom").
    """
    most = fitting.most_look_rows or given.spec.batch_size
    rows = min(_rows_a_pass(given, fitting), most)
    begin(rows)
    while (found := _scores(given, examples, model, fitting, report, rows)) is None:
        if rows > fitting.fit.micro_rows:
            fitting.fewer_rows(where)
        else:
            fitting.lower(model, where)
        rows = min(fitting.fit.micro_rows, most)
        begin(rows)
    if not math.isfinite(found.scores["loss"]):
        raise diverged(given.spec, f"the held-out loss is {found.scores['loss']}")
    return HeldOutScores(found.scores, _by_row(given, examples, found))


def _by_row(given: Inputs, examples: Sequence[Example], found: HeldOut) -> RowLosses:
    """Add up the losses of each row, which may have several examples."""
    sequences = given.objective.sequences
    order = np.array(longest_first(examples, sequences))
    first = np.array([example.row for example in examples])[::sequences]
    _, rows = np.unique(first[order], return_inverse=True)
    return RowLosses(
        *(np.bincount(rows, weights=np.array(each)).astype(np.float64) for each in (found.losses, found.weights))
    )


def _rows_a_pass(given: Inputs, fitting: Fitting) -> int:
    """Return how many rows are scored at once: as many as requested, until memory has run out with that many."""
    fit, asked = fitting.fit, given.spec.batch_size
    fewer = not fit.packed and fit.micro_rows < min(asked, given.training_rows)
    return fit.micro_rows if fewer or fitting.steps else asked


def _scores(
    given: Inputs,
    examples: Sequence[Example],
    model: Any,
    fitting: Fitting,
    report: Callable[[Progress], None],
    rows: int,
) -> HeldOut | None:
    """Return the scores; None if memory ran out, with nothing kept alive."""
    total = len(examples) // given.objective.sequences
    model.eval()

    def done(count: int) -> None:
        report(Progress(phase="evaluate", step=min(count, total), total=total, unit="rows"))

    look = Look(
        model,
        examples,
        given.tokenizer.pad_token_id,
        rows,
        given.device.torch_device,
        fitting.losses,
        done,
        reference="base" if given.order.parent is None else "parent",
        seed=given.spec.seed,
    )
    try:
        return given.objective.scores(look)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return None
