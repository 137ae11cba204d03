"""How much of a step a training computes at once at the beginning: as in a checkpoint or record, or chosen by rows,
model and memory.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from sdk.lora.memory import chunk_tokens
from sdk.lora.planning.families import ConfigError
from sdk.schemas.training import TrainingSpec
from sdk.schemas.version_records import TrainingRecord
from workers.pipelines.cpu.row_attention import MOST_MASKED, passes_of_packs, take_rows_alone
from workers.pipelines.data.batches import token_losses
from workers.pipelines.data.classify import reads_padding
from workers.pipelines.data.heads import Head, OnePieceError, head_of
from workers.pipelines.data.objective import TokenLosses
from workers.pipelines.data.packing import computed, keeps_apart
from workers.pipelines.data.stored_examples import first_lengths_of, longest_of
from workers.pipelines.model.device import DTYPES
from workers.pipelines.model.loading import LoadedBase
from workers.pipelines.model.rotary import turns_at
from workers.pipelines.orders import Fit
from workers.pipelines.training.adapting import short_rows
from workers.pipelines.training.fitting import Fitting, Limits, Say
from workers.pipelines.training.forecasting import blueprint_in, needs_checkpointing
from workers.pipelines.training.inputs import Inputs
from workers.pipelines.training.short_of_memory import looked_twice

#: Packed passes must need this much less computation, since their masks are computed too, and attention with a mask is slower.
_CHEAPER = 0.95
#: How many rows this is estimated from.
_MOST_ROWS = 4096


def fitting_of(
    given: Inputs,
    loaded: LoadedBase,
    model: Any,
    say: Say,
    *,
    base_dropout: float,
) -> Fitting:
    """Return how much is computed at once: as in the checkpoint or the record to repeat, or else as chosen here."""
    spec, place = given.spec, given.device.kind
    head = _head(given, loaded, model, say) if given.objective.traits.predicts_tokens else None
    vocabulary = int(getattr(loaded.model.config.get_text_config(), "vocab_size", 0) or 1)
    chunk = None if head is None else chunk_tokens(vocabulary, place)
    base, longest = model.get_base_model(), longest_of(given.rows.examples)
    limits = Limits(
        checkpointing=bool(base.supports_gradient_checkpointing),
        chunk_tokens=chunk,
        offloading=place == "cuda" and hasattr(base, "activation_checkpointing_enable"),
    )
    fit = _recorded(given)
    if fit is None:
        # If a part of the head is trained, logits in chunks would be computed twice.
        chunk = None if head is None or head.trained else chunk
        # No pass has more rows than there are: halving a larger number would not save memory.
        rows = min(spec.batch_size, given.training_rows)
        if (
            rows > 1
            and not given.objective.traits.predicts_tokens
            and reads_padding(model, given.tokenizer.pad_token_id)
        ):
            rows, kind = 1, loaded.model.config.model_type
            say(f"rows are passed one at a time: {kind} reads what they are padded with")
        fit = Fit(micro_rows=rows, checkpointing=False, chunk_tokens=chunk)
        losses = _losses(head, chunk)
        in_packs = fit.model_copy(
            update={"packed": True, **({} if place == "cuda" else passes_of_packs(base, rows, longest))}
        )
        if _packs(given, loaded, model, losses, in_packs, say):
            fit = in_packs
    elif fit.packed and not _apart(given, loaded, model, _losses(head, fit.chunk_tokens), fit):
        # It was packed with other versions of the libraries; the losses are the same either way.
        kind = loaded.model.config.model_type
        say(f"rows are no longer packed: {kind} does not keep rows of one sequence apart here")
        fit = fit.model_copy(update={"packed": False, "row_attention": False})
    # A setting recorded on another machine may be more than this one can do.
    chunk, offloading = None if head is None else fit.chunk_tokens, fit.offloading and limits.offloading
    fit = fit.model_copy(update={"chunk_tokens": chunk, "offloading": offloading})
    fitting = Fitting(
        fit,
        steps=[] if given.resumed is None else list(given.resumed.record.memory_steps),
        limits=limits,
        head=head,
        draws=_draws(spec, base_dropout),
        longest_tokens=longest,
        on_cuda=place == "cuda",
        turns=turns_at(loaded.model),
        dtype=DTYPES[loaded.dtype],
        say=say,
        rung_file=given.order.rung_file,
    )
    if given.order.killed_on is not None:
        fitting.go_on_after(given.order.killed_on)
    fit = fitting.fit
    if not fit.checkpointing and limits.checkpointing and needs_checkpointing(given, loaded, model, fit):
        fitting.fit = _with_less(given, loaded, model, fit)
    return fitting


def _with_less(given: Inputs, loaded: LoadedBase, model: Any, fit: Fit) -> Fit:
    """Return a setting that takes less memory: shorter passes if packed rows fill them as well, and otherwise
    activations computed twice.

    Passes of one row that keep their activations took 1.2 times as long as passes of four; passes of four that compute
    them twice took 1.3 times.
    """
    rows = fit.micro_rows
    while fit.row_attention and (rows := rows // 2):
        shorter = fit.model_copy(update={"micro_rows": rows})
        if not needs_checkpointing(given, loaded, model, shorter):
            return shorter
    return fit.model_copy(update={"checkpointing": True})


def _recorded(given: Inputs) -> Fit | None:
    """Return the setting of the training that this one repeats or resumes; None: this one chooses."""
    if given.resumed is not None:
        return given.resumed.record.fit
    if given.order.like is None:
        return None
    record = TrainingRecord.read(given.order.like.ran_with)
    rows = record.micro_batch
    return Fit(
        micro_rows=rows if rows is not None and rows <= given.spec.effective_batch else given.spec.batch_size,
        checkpointing=record.gradient_checkpointing is True,
        chunk_tokens=record.logit_chunk_tokens,
        offloading=record.activation_offloading is True,
        packed=record.packed is True,
        row_attention=record.row_attention is True,
    )


def _head(given: Inputs, loaded: LoadedBase, model: Any, say: Say) -> Head | None:
    """Return a model's head if it can be separated from the decoder; two short rows must have the same losses both ways."""
    try:
        return looked_twice(lambda: head_of(model, short_rows(given), _rounding(loaded)))
    except OnePieceError:
        kind = loaded.model.config.model_type
        said = (
            f"logits of all supervised tokens are in memory at once, since {kind} has no head that takes some of them"
        )
        say(said)
        return None


def _packs(given: Inputs, loaded: LoadedBase, model: Any, losses: TokenLosses, fit: Fit, say: Say) -> bool:
    """Whether rows are packed, with the settings of `fit`: if that is requested, needs less computation, and keeps rows
    apart.
    """
    asked = given.spec.packing or ("auto" if fit.row_attention else "off")
    if asked == "off":
        return False
    why = None
    if not given.objective.traits.packs:
        why = f"{given.objective.name} looks at whole sequences"
    elif given.spec.neftune_noise_alpha is not None:
        why = "the noise of neftune_noise_alpha depends on the length of a sequence"
    elif len(given.rows.examples) < 2:
        why = "there is one alone"
    elif asked == "auto" and fit.row_attention and longest_of(given.rows.examples) > MOST_MASKED:
        why = f"of a row of more than {MOST_MASKED:,} tokens packed with others the mask is too large"
    elif asked == "auto" and not _is_cheaper(given, loaded, fit):
        why = "rows sorted by length take less time"
    elif not _apart(given, loaded, model, losses, fit):
        why = f"{loaded.model.config.model_type} does not keep rows of one sequence apart"
    if why is None or given.spec.packing is not None:
        say("rows are packed" if why is None else f"rows are not packed: {why}")
    return why is None


def _apart(given: Inputs, loaded: LoadedBase, model: Any, losses: TokenLosses, fit: Fit) -> bool:
    """Whether a model keeps packed rows apart, and attends to each separately if `fit` says so."""
    base, rows, experts = model.get_base_model(), short_rows(given), _has_experts(loaded)
    if take_rows_alone(base, fit.row_attention) != fit.row_attention:
        return False
    try:
        return looked_twice(lambda: keeps_apart(model, rows, losses, _rounding(loaded), experts=experts))
    finally:
        take_rows_alone(base, False)


def _losses(head: Head | None, chunk: int | None) -> TokenLosses:
    return token_losses if head is None or chunk is None else head.losses(chunk)


def _draws(spec: TrainingSpec, base_dropout: float) -> tuple[str, ...]:
    """Return what a pass draws at random, which depends on its rows."""
    masks = spec.dropout > 0 or base_dropout > 0
    noise = spec.neftune_noise_alpha is not None
    return (*(["dropout masks"] if masks else []), *(["noise"] if noise else []))


def _is_cheaper(given: Inputs, loaded: LoadedBase, fit: Fit) -> bool:
    if given.device.kind == "cpu" and loaded.dtype != "float32" and not fit.row_attention:
        # With a mask and few rows, a CPU is so slow in 16 bits that packing took 1.15 times as long (`benchmarks/packing.py`).
        return False
    try:
        blueprint = blueprint_in(loaded.model)
    except ConfigError:
        return False
    apart, together = computed(
        first_lengths_of(given.rows.examples, _MOST_ROWS),
        batch=given.spec.effective_batch,
        rows=given.spec.batch_size,
        room=fit.micro_rows * longest_of(given.rows.examples),
        linear=sum(math.prod(shape) for shape in blueprint.linear.values()),
        # Scores of queries and keys, and the values weighted by them.
        attention=2 * blueprint.layers * blueprint.queries,
        masked=not fit.row_attention,
    )
    return together < _CHEAPER * apart


def _has_experts(loaded: LoadedBase) -> bool:
    try:
        return blueprint_in(loaded.model).experts > 0
    except ConfigError:
        return False


def _rounding(loaded: LoadedBase) -> float:
    return float(torch.finfo(DTYPES[loaded.dtype]).eps)
