"""Which changes would make a training fit that is too large, each forecast like the training itself.

>>> from sdk.schemas.training import TrainingSpec
>>> config = {"model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
...           "intermediate_size": 11008, "vocab_size": 32000}
>>> one_row = TrainingSpec(method="lora", batch_size=1)
>>> planned = PlannedTraining(config, {}, one_row)
>>> [each.said for each in alternatives(planned, available_bytes=14 * 10**9, place="cuda")]
['method qlora (5.3 GB)']
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from sdk.lora.planning.adapter import AdapterPlan
from sdk.lora.planning.blueprint import ModelShapes
from sdk.lora.planning.footprint import HALF, Place
from sdk.lora.planning.forecast import Run, forecast_of
from sdk.lora.planning.job_forecasts import PlannedTraining

#: Rows are not made shorter than this.
_SHORTEST = 64


@dataclass(frozen=True)
class Alternative:
    """Options that fit, and what a training takes with them."""

    options: Mapping[str, str | int]
    needed_bytes: int

    @property
    def said(self) -> str:
        """The options by their plain names, since people ask on a terminal, from Python and on a page; with the memory that they take."""
        options = " and ".join(f"{name.replace('_', ' ')} {value}" for name, value in self.options.items())
        return f"{options} ({self.needed_bytes / 1e9:.1f} GB)"


def alternatives(
    planned: PlannedTraining, *, available_bytes: int, place: Place, batch_size: int = 1, may_quantize: bool = True
) -> list[Alternative]:
    """Return what fits: 4 bits and shorter rows, each by itself, or else both together.

    Smaller batches than `batch_size` are not among them, since a worker chooses those by itself. `may_quantize`: whether
    the base is available in 16 bits. Nothing is known to fit if the base's shapes aren't known.
    """
    if isinstance(planned.shapes, str):
        return []
    run = replace(planned.run, place=place, batch_size=batch_size)
    search = _Search(*planned.shapes, run, available_bytes)
    packs = may_quantize and run.spec.method == "lora"
    alone = [search.first(quantize=True) if packs else None, search.first(shorten=True)]
    if found := [each for each in alone if each is not None]:
        return found
    together = search.first(shorten=True, quantize=True) if packs else None
    return [] if together is None else [together]


@dataclass(frozen=True)
class _Search:
    base: ModelShapes
    adapter: AdapterPlan
    run: Run
    available_bytes: int

    def first(self, *, shorten: bool = False, quantize: bool = False) -> Alternative | None:
        """Return the smallest sufficient change, given what may be changed."""
        for length in _halves(self.run.max_length, _SHORTEST) if shorten else [self.run.max_length]:
            found = self._forecast(length, quantize=quantize)
            if found <= self.available_bytes:
                return Alternative(dict(self._options(length, quantize=quantize)), found)
        return None

    def _forecast(self, length: int, *, quantize: bool) -> int:
        run = replace(self.run, max_length=length)
        if quantize:
            run = replace(run, method="qlora", width=HALF)
        return forecast_of(self.base, self.adapter, run).needed_bytes

    def _options(self, length: int, *, quantize: bool) -> Iterator[tuple[str, str | int]]:
        if quantize:
            yield "method", "qlora"
        if length != self.run.max_length:
            yield "max_length", length


def _halves(length: int, shortest: int) -> list[int]:
    found = []
    while length // 2 >= shortest:
        length //= 2
        found.append(length)
    return found
