"""The held-out rows of a training, scored before its first step and after its last one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from sdk.schemas.events import Progress
from workers.pipelines.data.objective import Look
from workers.pipelines.model.device import is_out_of_memory
from workers.pipelines.training.fitting import Fitting
from workers.pipelines.training.inputs import Inputs
from workers.pipelines.training.optimising import diverged


def held_out_scores(
    given: Inputs, model: Any, fitting: Fitting, report: Callable[[Progress], None]
) -> dict[str, float]:
    """Return the loss of held-out rows, and the other scores of the objective.

    Empty if there are no held-out rows. If memory runs out, they are scored again in smaller parts. Raises PipelineError
    ("diverged", "oom").
    """
    if given.held_out is None:
        return {}
    rows = _rows_a_pass(given, fitting)
    while (found := _scores(given, model, fitting, report, rows)) is None:
        if rows > fitting.fit.micro_rows:
            fitting.fewer_rows("the evaluation")
        else:
            fitting.lower(model, "the evaluation")
        rows = fitting.fit.micro_rows
    if not math.isfinite(found["loss"]):
        raise diverged(given.spec, f"the held-out loss is {found['loss']}")
    return found


def _rows_a_pass(given: Inputs, fitting: Fitting) -> int:
    """Return how many rows are scored at once: as many as requested, until memory has run out with that many."""
    fit, asked = fitting.fit, given.spec.batch_size
    fewer = not fit.packed and fit.micro_rows < min(asked, given.training_rows)
    return fit.micro_rows if fewer or fitting.steps else asked


def _scores(
    given: Inputs, model: Any, fitting: Fitting, report: Callable[[Progress], None], rows: int
) -> dict[str, float] | None:
    """Return the scores; None if memory ran out, with nothing kept alive."""
    assert given.held_out is not None
    total = len(given.held_out.examples) // given.objective.sequences
    model.eval()

    def done(count: int) -> None:
        report(Progress(phase="evaluate", step=min(count, total), total=total, unit="rows"))

    look = Look(
        model,
        given.held_out.examples,
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
