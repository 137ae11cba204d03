"""The held-out rows of a training, scored before its first step and after its last one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from sdk.schemas.events import Progress
from workers.pipelines.data.batches import mean_loss
from workers.pipelines.data.classify import Guess, guesses, scores
from workers.pipelines.data.preferences import Pair, judged, preference_loss, preference_scores
from workers.pipelines.model.device import is_out_of_memory
from workers.pipelines.training.fitting import Fitting
from workers.pipelines.training.inputs import Inputs
from workers.pipelines.training.optimising import diverged


def held_out_scores(
    given: Inputs, model: Any, fitting: Fitting, report: Callable[[Progress], None]
) -> dict[str, float]:
    """Return the loss of held-out rows, in nats per supervised token, label or preference, and the scores for the latter two.

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
    examples = given.held_out.examples
    total = len(examples) // given.objective.sequences
    how = (model, examples, given.tokenizer.pad_token_id, rows, given.device.torch_device)
    model.eval()

    def done(count: int) -> None:
        report(Progress(phase="evaluate", step=min(count, total), total=total, unit="rows"))

    try:
        if given.objective.name == "dpo":
            pairs: list[Pair] = []
            for judgement in judged(*how, fitting.losses):
                pairs += judgement
                done(len(pairs))
            reference = "base" if given.order.parent is None else "parent"
            return {"loss": preference_loss(pairs, given.spec.beta), **preference_scores(pairs, reference)}
        if given.objective.name == "sft":
            # The last running mean is the result.
            found = {"loss": math.nan}
            for batch, found["loss"] in enumerate(mean_loss(*how, fitting.losses), start=1):
                done(batch * rows)
            return found
        all_of_them: list[Guess] = []
        for part in guesses(*how):
            all_of_them += part
            done(len(all_of_them))
        return scores(all_of_them)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return None
