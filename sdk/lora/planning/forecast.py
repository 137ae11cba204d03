"""The memory of a training, part by part: the one estimate that plans, a job's requirements and the worker itself use.

>>> from sdk.lora.planning.adapter import adapter_of
>>> from sdk.lora.planning.blueprint import blueprint_of
>>> from sdk.schemas.training import TrainingSpec
>>> llama = blueprint_of({"model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
...                       "intermediate_size": 11008, "vocab_size": 32000})
>>> spec = TrainingSpec()
>>> run = Run(spec=spec, method="qlora", batch_size=4, max_length=1024, checkpointing=True)
>>> found = forecast_of(llama, adapter_of(llama, spec), run)
>>> f"{found.card_bytes / 1e9:.1f} GB, of which {found.fixed_bytes / 1e9:.1f} GB whatever the rows are"
'6.7 GB, of which 4.6 GB whatever the rows are'
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from sdk.formats.objectives import traits_of
from sdk.lora.memory import chunk_tokens
from sdk.lora.planning.adapter import AdapterPlan
from sdk.lora.planning.blueprint import ModelShapes
from sdk.lora.planning.footprint import (
    HALF,
    KEPT_BY_MALLOC_BYTES,
    Place,
    adapter_parts,
    full_parts,
    kernel_bytes,
    layer_bytes,
    looked_at_bytes,
    pass_parts,
    rows_bytes,
    weights_parts,
    widened_matrix_bytes,
)
from sdk.schemas.planning import Attention, Forecast, PlanMethod, PlanPart
from sdk.schemas.training import TrainingSpec

#: What a CUDA context and cuBLAS' workspaces take; a common figure, not measured here.
CONTEXT_BYTES = 512 * 2**20
#: Interpreter and libraries, without any weights, as plans and submits count them: this much was resident after training a tiny
#: model with a torch that is built for processors, and 25 MiB more with bitsandbytes at work. One that is built for cards maps
#: as much again of its files, which the system gives away first. A training measures its own.
PROCESS_BYTES = 410 * 2**20
#: Texts per pass, and tokens of each, of the general texts that an evaluation reads however short its rows are
#: (`workers.pipelines.scoring.forgetting`).
GENERAL_PASS = (16, 12)


@dataclass(frozen=True)
class Run:
    """How a training runs, as far as this affects its memory."""

    spec: TrainingSpec
    method: PlanMethod
    #: Rows in a forward pass, and the tokens of the longest row.
    batch_size: int
    max_length: int
    checkpointing: bool
    place: Place = "cuda"
    #: Bytes per number of everything that is not in 4 bits.
    width: int = HALF
    attention: Attention = "sdpa"
    #: Tokens whose logits are in memory at a time; None: as a training chooses.
    logit_chunk_tokens: int | None = None
    #: Tokens of a pass that the loss is computed on; None: all.
    supervised_tokens: int | None = None
    #: What interpreter and libraries take, where that was measured.
    process_bytes: int = PROCESS_BYTES

    @property
    def sequences(self) -> int:
        """Sequences per row: a pair of answers has two."""
        return traits_of(self.spec.objective).sequences


def forecast_of(base: ModelShapes, adapter: AdapterPlan, run: Run) -> Forecast:
    """Return the parts of one configuration; `adapter` is None for full fine-tuning."""
    return Forecast(
        method=run.method,
        batch_size=run.batch_size,
        max_length=run.max_length,
        gradient_checkpointing=run.checkpointing,
        parts=list(_Parts(base, None if run.method == "full" else adapter, run).all()),
    )


def evaluation_of(base: ModelShapes, run: Run) -> Forecast:
    """Return the parts of an evaluation: nothing is trained, and only one layer's activations and the logits are kept.

    There are two copies of the logits at a time, 8 bytes per number: as computed and those of supervised positions, or
    those in float32 and their log-softmax (`workers.pipelines.data.batches.example_losses`); for general texts, the
    base's and the adapter's.
    """
    made = _Parts(base, None, run)
    rows, length = max((run.batch_size, run.max_length), GENERAL_PASS, key=math.prod)
    tokens = rows * length
    layer = layer_bytes(
        base,
        AdapterPlan({}, {}, []),
        tokens=tokens,
        length=length,
        width=run.width,
        attention="sdpa" if base.sdpa else "eager",
    )
    return Forecast(
        method=run.method,
        batch_size=run.batch_size,
        max_length=run.max_length,
        gradient_checkpointing=False,
        parts=[
            *made.weights(),
            made.part("activations", layer, f"{rows} × {length} tokens, of one layer"),
            made.part("logits", 8 * tokens * base.vocabulary, f"vocabulary {base.vocabulary}, of all tokens at once"),
            *made.around(),
        ],
    )


@dataclass(frozen=True)
class _Parts:
    base: ModelShapes
    adapter: AdapterPlan | None
    run: Run

    def all(self) -> Iterator[PlanPart]:
        yield from self.weights()
        yield from self._trained()
        yield from self._pass()
        yield from self.around()

    def part(self, name: str, size_bytes: int, of: str, *, machine: bool = False) -> PlanPart:
        where: Literal["card", "machine"] = "machine" if machine or self.run.place == "cpu" else "card"
        return PlanPart(name=name, where=where, size_bytes=size_bytes, of=of)

    def weights(self) -> Iterator[PlanPart]:
        base, run = self.base, self.run
        eight_bits = run.spec.quant_type == "int8"
        weights = weights_parts(
            base, run.method, double_quant=run.spec.double_quant, eight_bits=eight_bits, width=run.width
        )
        if run.method != "qlora":
            yield self.part("weights", weights["weights"], f"{run.width} bytes a parameter")
            return
        nested = "with 8-bit scales" if run.spec.packs_scales else "with 32-bit scales"
        linear = f"linear modules of the layers, {run.spec.quant_type} {nested}"
        yield self.part(f"weights in {8 if eight_bits else 4} bits", weights["packed"], linear)
        kept = "embedding, head, norms" + ", experts" * bool(base.stacked)
        yield self.part(f"weights in {8 * run.width} bits", weights["kept"], kept)

    def around(self) -> Iterator[PlanPart]:
        run = self.run
        if widened := widened_matrix_bytes(self.base, self.adapter, run.method, width=run.width):
            yield self.part("widened matrix", widened, "the largest, for its product")
        if run.place == "cuda":
            yield self.part("CUDA context", CONTEXT_BYTES, "customary, not measured")
        else:
            if not run.checkpointing:
                yield self.part("kept by malloc", KEPT_BY_MALLOC_BYTES, "of what was freed, by glibc")
            steps = self.run.spec.max_steps
            passes = None if steps is None else steps * self.run.spec.grad_accum
            if kernels := kernel_bytes(self.base, width=self.run.width, passes=passes):
                yield self.part("kernels", kernels, "of oneDNN, for each number of tokens that an expert gets")
        yield self.part("process", run.process_bytes, "interpreter and libraries", machine=True)

    def _trained(self) -> Iterator[PlanPart]:
        run = self.run
        if self.adapter is None:
            full = full_parts(self.base, width=run.width)
            yield self.part("gradients", full["gradients"], f"{run.width} bytes a parameter")
            yield self.part("optimizer", full["optimizer"], f"Adam's two moments in {8 * run.width} bits")
            return
        own = adapter_parts(self.adapter, run.spec.optimizer)
        yield self.part("adapter", own["adapter"], "float32")
        yield self.part("gradients", own["gradients"], "of the adapter, float32")
        yield self.part(
            "optimizer", own["optimizer"], f"{run.spec.optimizer.name}: {', '.join(run.spec.optimizer.tensors)}"
        )
        if paged := own["paged optimizer"]:
            said = "of large tensors, paged out where the GPU is full"
            yield self.part("paged optimizer", paged, said, machine=True)

    def _chunk_tokens(self) -> int | None:
        """Tokens whose logits are in memory at a time: all if a part of the head is trained, since chunks would compute
        it twice.
        """
        if self.run.logit_chunk_tokens is not None:
            return self.run.logit_chunk_tokens
        if self.adapter is None or self.adapter.trains_head:
            return None
        return chunk_tokens(self.base.vocabulary, self.run.place)

    def _pass(self) -> Iterator[PlanPart]:
        base, run = self.base, self.run
        attention = run.attention if base.sdpa else "eager"
        kept = pass_parts(
            base,
            self.adapter,
            tokens=run.batch_size * run.sequences * run.max_length,
            length=run.max_length,
            checkpointing=run.checkpointing,
            width=run.width,
            attention=attention,
            dropout=run.spec.dropout,
            place=run.place,
            chunk_tokens=self._chunk_tokens(),
            supervised_tokens=run.supervised_tokens,
            predicts_tokens=traits_of(run.spec.objective).predicts_tokens,
        )
        how = "checkpointed" if run.checkpointing else "all kept"
        rows = f"{run.batch_size} × {run.sequences}" if run.sequences > 1 else f"{run.batch_size}"
        yield self.part("activations", kept["activations"], f"{rows} × {run.max_length} tokens, {how}, {attention}")
        chunk = self._chunk_tokens()
        said = f"in chunks of {chunk} tokens" if chunk else "of all tokens at once"
        if copied := rows_bytes(base, self.adapter, width=run.width, logits=kept["logits"]):
            yield self.part("trained rows", copied, "a copy of the whole embedding or head, and its gradient")
        if not kept["logits"]:
            return
        # Then nothing is kept for a backward pass.
        looked_at = looked_at_bytes(base, width=run.width) - kept["activations"]
        if looked_at > kept["logits"]:
            said = "of the looks before the first step and after the last one"
        yield self.part("logits", max(kept["logits"], looked_at), f"vocabulary {base.vocabulary}, {said}")


#: Activations and logits may take this share of the memory that is free once the base is loaded.
ACTIVATION_SHARE = 0.5


def keeps_activations(pass_bytes: int, *, free_bytes: int) -> bool:
    """Whether a forward pass keeps its activations, or they are computed twice: the one rule for workers, and for plans that
    predict it. `free_bytes` is the free memory once base and adapter are loaded.

    >>> keeps_activations(4 * 10**9, free_bytes=10**10), keeps_activations(6 * 10**9, free_bytes=10**10)
    (True, False)
    """
    return pass_bytes <= ACTIVATION_SHARE * free_bytes
