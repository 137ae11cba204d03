"""How much of a step a training computes at once: chosen for a loaded model, and less of it where memory runs out."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sdk.lora.logit_chunks import chunk_tokens
from sdk.schemas.events import Progress
from sdk.schemas.failures import FailureReason
from workers.pipelines.data.batches import TokenLosses, example_batches, of_sequences, token_losses
from workers.pipelines.data.heads import Head, OnePieceError, head_of
from workers.pipelines.errors import PipelineError
from workers.pipelines.model.device import DTYPES
from workers.pipelines.model.loading import LoadedBase
from workers.pipelines.training.checkpointing import needs_checkpointing
from workers.pipelines.training.inputs import Inputs
from workers.pipelines.training.ladder import Limits, change
from workers.pipelines.training.order import Fit, Rung

#: What is told of how a training fits.
Say = Callable[[Progress], None]


@dataclass
class Fitting:
    """How much is computed at once, now, and how it came to that."""

    fit: Fit
    #: What memory has run out with so far, and what came after it, in words.
    steps: list[str]
    limits: Limits
    head: Head | None
    #: Whether anything is drawn at random in a forward pass.
    draws: bool
    on_cuda: bool
    say: Say
    #: Where a worker reads the rung once this process was killed.
    rung_file: Path | None = None

    @property
    def losses(self) -> TokenLosses:
        """What computes the losses of tokens."""
        if self.head is None or self.fit.chunk_tokens is None:
            return token_losses
        return self.head.losses(self.fit.chunk_tokens)

    def begin(self, model: Any) -> None:
        """Let a model compute like this, and write down that it does."""
        _let_compute(model, self.fit)
        self._write()

    def lower(self, model: Any, where: str) -> None:
        """Let a model compute with less memory, since it ran out in `where`. Raises PipelineError ("oom") where nothing takes less."""
        gc.collect()
        if self.on_cuda:
            torch.cuda.empty_cache()
        below = self.limits.below(self.fit)
        if below is None:
            tried = "; ".join(self.steps) or "nothing could be made smaller"
            raise PipelineError(
                FailureReason.OOM,
                f"Memory ran out in {where} with the least that can be computed at once (tried: {tried}); shorten max_length, lower"
                " rank, or choose method qlora.",
            )
        self._go_on(below, f"memory ran out in {where}", where)
        self.begin(model)

    def go_on_after(self, killed: Rung) -> None:
        """Take up a training whose process was killed on a rung: with less, where that is possible."""
        self.fit, self.steps = killed.fit, list(killed.steps)
        if killed.below is not None:
            self._go_on(killed.below, "the system killed the process for lack of memory", "killed")

    def _go_on(self, below: Fit, why: str, where: str) -> None:
        changed = change(self.fit, below)
        if self.draws and below.micro_rows != self.fit.micro_rows:
            # They are drawn for a pass, so they depend on its rows.
            changed += " (other dropout masks)"
        self.steps.append(f"{where}: {changed}")
        self.say(Progress(phase="fit", message=f"{why}; it goes on with {changed}, same effective batch"))
        self.fit = below

    def record(self) -> str | None:
        """Return what a record has of what memory ran out with; None: it never did."""
        return "; ".join(self.steps) or None

    def _write(self) -> None:
        if self.rung_file is None:
            return
        rung = Rung(fit=self.fit, steps=self.steps, below=self.limits.below(self.fit))
        partial = self.rung_file.with_suffix(".partial")
        partial.write_text(rung.model_dump_json(), encoding="utf-8")
        partial.replace(self.rung_file)


def fitting_of(
    given: Inputs,
    loaded: LoadedBase,
    model: Any,
    say: Say,
    *,
    killed_on: Rung | None,
    rung_file: Path | None,
    base_dropout: float,
) -> Fitting:
    """Choose how much is computed at once: as a worker orders it, as the checkpoint or the record to repeat has it, or by memory."""
    place = given.device.kind
    head = None if given.objective.name == "classify" else _head(given, loaded, model, say)
    vocabulary = int(getattr(loaded.model.config.get_text_config(), "vocab_size", 0) or 1)
    chunk = None if head is None else chunk_tokens(vocabulary, place)
    base = model.get_base_model()
    limits = Limits(
        checkpointing=bool(base.supports_gradient_checkpointing),
        chunk_tokens=chunk,
        offloading=place == "cuda" and hasattr(base, "activation_checkpointing_enable"),
    )
    steps = [] if given.resumed is None else list(given.resumed.record.memory_steps)
    fit = _recorded(given)
    if fit is None:
        # Where something of the head is trained, its logits would be computed twice.
        chunk = None if head is None or head.trained else chunk
        fit = Fit(micro_rows=given.spec.batch_size, checkpointing=False, chunk_tokens=chunk)
    if head is None:
        fit = fit.model_copy(update={"chunk_tokens": None})
    spec = given.spec
    draws = spec.dropout > 0 or base_dropout > 0 or spec.neftune_noise_alpha is not None
    fitting = Fitting(fit, steps, limits, head, draws, place == "cuda", say, rung_file)
    if killed_on is not None:
        fitting.go_on_after(killed_on)
    if (
        not fitting.fit.checkpointing
        and limits.checkpointing
        and needs_checkpointing(given, loaded, model, fitting.fit)
    ):
        fitting.fit = fitting.fit.model_copy(update={"checkpointing": True})
    return fitting


def _recorded(given: Inputs) -> Fit | None:
    """Return what a training had that this one repeats or goes on from; None: it is for this one to choose."""
    if given.resumed is not None:
        # Earlier releases did not write it, and had all logits at once.
        return given.resumed.record.fit or Fit(micro_rows=given.spec.batch_size, checkpointing=False)
    if given.like is None:
        return None
    said = given.like.ran_with
    rows, chunk = said.get("micro_batch"), said.get("logit_chunk_tokens")
    return Fit(
        micro_rows=rows if type(rows) is int and 1 <= rows <= given.spec.effective_batch else given.spec.batch_size,
        checkpointing=said.get("gradient_checkpointing") is True,
        chunk_tokens=chunk if type(chunk) is int and chunk > 0 else None,
        offloading=given.device.kind == "cuda" and said.get("activation_offloading") is True,
    )


def _head(given: Inputs, loaded: LoadedBase, model: Any, say: Say) -> Head | None:
    """Return the head of a model where it can be told from its decoder; two short rows have the same losses by it as by the model."""
    shortest = sorted(given.rows.examples, key=lambda example: len(example.input_ids))[:2]
    pad_id, place = given.tokenizer.pad_token_id, given.device.torch_device
    batch = next(example_batches(shortest, of_sequences(given.objective), pad_id, 2, place))
    try:
        return head_of(model, batch, torch.finfo(DTYPES[loaded.dtype]).eps)
    except OnePieceError:
        kind = loaded.model.config.model_type
        said = f"logits of all supervised tokens are there at once, since {kind} has no head that takes some of them"
        say(Progress(phase="fit", message=said))
        return None


def _let_compute(model: Any, fit: Fit) -> None:
    base = model.get_base_model()
    if not fit.checkpointing:
        return
    how = {"use_reentrant": False}
    if hasattr(base, "activation_checkpointing_enable"):
        base.activation_checkpointing_enable(how, offload=fit.offloading)
    else:
        base.gradient_checkpointing_enable(how)
