"""What of a training that is too large would fit, each forecast like the training itself.

>>> from sdk.schemas.training import TrainingSpec
>>> config = {"model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
...           "intermediate_size": 11008, "vocab_size": 32000}
>>> wide = TrainingSpec(method="lora", batch_size=16, grad_accum=1)
>>> [each.said for each in alternatives(config, {}, wide, available_bytes=17 * 10**9, place="cuda")]
['--batch-size 4 --grad-accum 4 (16.9 GB)', '--method qlora (15.6 GB)', '--max-length 256 (16.9 GB)']
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sdk.lora.planning.adapter import AdapterPlan, adapter_of
from sdk.lora.planning.blueprint import Blueprint
from sdk.lora.planning.footprint import HALF, Place
from sdk.lora.planning.forecast import Run, forecast_of
from sdk.lora.planning.job_forecasts import Tensors, known_blueprint, training_run, without_head
from sdk.schemas.training import TrainingSpec

#: Rows are not made shorter than this.
_SHORTEST = 64


@dataclass(frozen=True)
class Alternative:
    """Options that fit, and what a training takes with them."""

    options: Mapping[str, str | int]
    needed_bytes: int

    @property
    def said(self) -> str:
        """As options of the command, with what they take."""
        flags = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in self.options.items())
        return f"{flags} ({self.needed_bytes / 1e9:.1f} GB)"


def alternatives(
    config: Mapping[str, Any],
    tensors: Tensors,
    spec: TrainingSpec,
    *,
    available_bytes: int,
    place: Place,
    may_quantize: bool = True,
) -> list[Alternative]:
    """Return what fits: of a smaller batch, 4 bits and shorter rows each by itself, or else the first of them together.

    A smaller batch has as many more forward passes in a step, so what is learnt is the same. `may_quantize`: whether the base is
    there in 16 bits. Raises NotKnownError for a base without shapes, TargetsError.
    """
    base = known_blueprint(config, tensors)
    base = without_head(base) if spec.objective == "classify" else base
    run = replace(training_run(config, spec), place=place)
    search = _Search(base, adapter_of(base, spec), run, available_bytes)
    packs = may_quantize and spec.method == "lora"
    alone = [search.first(batch=True), search.first(quantize=True) if packs else None, search.first(shorten=True)]
    if found := [each for each in alone if each is not None]:
        return found
    together = (
        search.first(batch=True, shorten=True),
        search.first(batch=True, quantize=True) if packs else None,
        search.first(batch=True, shorten=True, quantize=True) if packs else None,
    )
    return [each for each in together if each is not None][:1]


@dataclass(frozen=True)
class _Search:
    base: Blueprint
    adapter: AdapterPlan
    run: Run
    available_bytes: int

    def first(self, *, batch: bool = False, shorten: bool = False, quantize: bool = False) -> Alternative | None:
        """Return the one that changes least among those that change all that is named."""
        spec = self.run.spec
        for length in _halves(self.run.max_length, _SHORTEST) if shorten else [self.run.max_length]:
            for rows in _smaller(spec) if batch else [self.run.batch_size]:
                found = self._forecast(rows, length, quantize=quantize)
                if found <= self.available_bytes:
                    return Alternative(dict(self._options(rows, length, quantize=quantize)), found)
        return None

    def _forecast(self, rows: int, length: int, *, quantize: bool) -> int:
        run = replace(self.run, batch_size=rows, max_length=length)
        if quantize:
            run = replace(run, method="qlora", width=HALF)
        return forecast_of(self.base, self.adapter, run).needed_bytes

    def _options(self, rows: int, length: int, *, quantize: bool) -> Iterator[tuple[str, str | int]]:
        if quantize:
            yield "method", "qlora"
        if rows != self.run.batch_size:
            yield "batch_size", rows
            yield "grad_accum", self.run.spec.effective_batch // rows
        if length != self.run.max_length:
            yield "max_length", length


def _smaller(spec: TrainingSpec) -> list[int]:
    """Rows of a pass that are fewer and divide those of a step, the most first."""
    step = spec.effective_batch
    return [rows for rows in range(spec.batch_size - 1, 0, -1) if step % rows == 0]


def _halves(length: int, shortest: int) -> list[int]:
    found = []
    while length // 2 >= shortest:
        length //= 2
        found.append(length)
    return found
