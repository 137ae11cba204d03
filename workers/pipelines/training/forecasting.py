"""What a training should take by the planner's formulas, given the rows that it has read and the base in memory."""

from __future__ import annotations

import torch

from sdk.formats.option_texts import write_values
from sdk.lora.planning.adapter import adapter_of
from sdk.lora.planning.forecast import CONTEXT_BYTES, PROCESS_BYTES, Run, forecast_of
from sdk.lora.planning.job_forecasts import NotKnownError, known_blueprint, without_head
from sdk.lora.targets import TargetsError
from sdk.schemas.planning import Forecast
from workers.pipelines.data.examples import Example
from workers.pipelines.data.stored_examples import longest_examples
from workers.pipelines.model.blueprint import read_blueprint
from workers.pipelines.model.device import DTYPES
from workers.pipelines.model.loading import LoadedBase
from workers.pipelines.training.fitting import Fitting
from workers.pipelines.training.inputs import Inputs
from workers.pipelines.training.order import Fit


def forecast_bytes(given: Inputs, loaded: LoadedBase, fitting: Fitting) -> int | None:
    """Return what the device's own count of the peak should be; None for a base without a forecast, and if memory ran
    out, since then the peak belongs to another pass.

    On a card the allocator counts tensors but not the context; in main memory the process counts too.
    """
    found = None if fitting.steps else forecast(given, loaded, fitting.fit)
    if found is None:
        return None
    return found.needed_bytes - (CONTEXT_BYTES if given.device.kind == "cuda" else 0)


def forecast(given: Inputs, loaded: LoadedBase, fit: Fit) -> Forecast | None:
    """Return the parts of that forecast, for the longest rows."""
    config = loaded.model.config.get_text_config()
    moved = {"rank_pattern": write_values(given.lora.rank_pattern)} if given.lora.rank_pattern else {}
    spec = given.spec.model_copy(update={"objective": given.objective.name, **moved})
    try:
        base = known_blueprint(config.to_dict(), {})
    except NotKnownError:
        shapes = {name: list(shape) for name, shape in read_blueprint(given.base, given.classes).shapes.items()}
        try:
            base = known_blueprint(config.to_dict(), {name: list(shape) for name, shape in shapes.items()})
        except NotKnownError:
            return None
    base = without_head(base) if spec.objective == "classify" else base
    try:
        adapter = adapter_of(base, spec)
    except TargetsError:
        return None
    rows = _longest_rows(given, fit.micro_rows)
    length = max(len(example.input_ids) for example in rows)
    run = Run(
        spec=spec,
        # A widened base takes as much as without quantisation.
        method="qlora" if loaded.held == "packed" else "lora",
        batch_size=max(1, len(rows) // given.objective.sequences),
        max_length=length,
        checkpointing=fit.checkpointing,
        place="cuda" if given.device.kind == "cuda" else "cpu",
        width=torch.finfo(DTYPES[loaded.dtype]).bits // 8,
        attention="eager" if config._attn_implementation == "eager" else "sdpa",
        logit_chunk_tokens=fit.chunk_tokens or sum(len(example.input_ids) for example in rows),
        supervised_tokens=sum(example.supervised_tokens for example in rows),
        process_bytes=given.process_bytes or PROCESS_BYTES,
    )
    return forecast_of(base, adapter, run)


def _longest_rows(given: Inputs, micro_rows: int) -> list[Example]:
    """Return the sequences of the pass that takes most: every training has one with the longest rows together."""
    return longest_examples(given.rows.examples, micro_rows * given.objective.sequences)
