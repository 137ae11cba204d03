"""How much memory a job is forecast to take, as plans compute it, and its refusal if no worker that could have it is
large enough.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from registry.db.database import Database
from registry.errors import DoesNotFit
from registry.jobs.available_workers import AvailableWorker, available_workers, lately_seen_workers
from registry.jobs.base_contents import BaseContents
from sdk.lora.planning.alternatives import alternatives
from sdk.lora.planning.footprint import Place
from sdk.lora.planning.job_forecasts import MOST_TOO_HIGH, PlannedTraining, evaluation_forecast, weights_needs
from sdk.schemas.evaluation import EvaluationSpec
from sdk.schemas.jobs import MOST_MEMORY_BYTES, Needs
from sdk.schemas.planning import ROW_PARTS, Forecast, JobForecast
from sdk.schemas.training import TrainingSpec

#: Says which options would fit into this many bytes of a place.
WhatFits = Callable[[int, Place], list[str]]
_NOT_REGISTERED = "the base is fetched from the hub by the worker, so nothing of it is known here"


@dataclass(frozen=True)
class Estimate:
    """How much memory a job takes."""

    forecast: JobForecast | None = None
    #: The forecast for the least that a worker computes at once, if it may compute less than was asked for; None:
    #: `forecast` is the least.
    least: JobForecast | None = None
    #: What must be free on any worker, whatever the rows are like.
    needs: Needs = field(default_factory=Needs)
    what_fits: WhatFits = field(default=lambda available_bytes, place: [])
    #: Whether its rows, whose length its spec limits, can also make a worker too small for the job.
    counts_rows: bool = True

    def on_cards(self) -> Estimate:
        """Return the estimate of a job that only a worker with a card may have."""
        return replace(self, needs=self.needs.model_copy(update={"device": "cuda"}))

    @property
    def lowest(self) -> JobForecast | None:
        """The forecast for the least that a worker computes at once."""
        return self.least or self.forecast

    @property
    def least_card_bytes(self) -> int | None:
        """What a worker with a card must have in all."""
        return None if self.lowest is None else self.least_of(self.lowest.card)

    @property
    def least_machine_bytes(self) -> int | None:
        """What a worker without a card must have in all."""
        return None if self.lowest is None else self.least_of(self.lowest.machine)

    def needed(self, forecast: Forecast) -> int:
        """The part of a forecast that decides whether a worker is large enough."""
        return forecast.needed_bytes if self.counts_rows else forecast.fixed_bytes

    def least_of(self, forecast: Forecast | None) -> int | None:
        """What a worker must have, as far as that forecast goes, even if it is too high."""
        return None if forecast is None else min(int(self.needed(forecast) / MOST_TOO_HIGH), MOST_MEMORY_BYTES)


def of_training(base: BaseContents | None, spec: TrainingSpec, *, packed: bool) -> Estimate:
    """Return what a training takes; `packed`: its base is stored in 4 bits."""
    if base is None:
        return Estimate(JobForecast(unknown=_NOT_REGISTERED))
    planned = PlannedTraining(base.config, base.tensors, spec)
    found = planned.forecast()

    def what_fits(available_bytes: int, place: Place) -> list[str]:
        fitting = alternatives(planned, available_bytes=available_bytes, place=place, may_quantize=not packed)
        return [each.said for each in fitting]

    needs = _needs(base, found, quantized=spec.method == "qlora" and not packed)
    # If memory runs out, a worker goes down to one row per pass.
    return Estimate(found, planned.forecast(batch_size=1), needs, what_fits)


def of_evaluation(base: BaseContents | None, spec: EvaluationSpec, *, quantized: bool, packed: bool) -> Estimate:
    """Return what an evaluation takes; `quantized`: its base is quantised to 4 bits, or `packed`, stored so.

    It is refused only because of its weights: nobody has said how long its rows are.
    """
    if base is None:
        return Estimate(JobForecast(unknown=_NOT_REGISTERED))
    found = evaluation_forecast(base.config, base.tensors, spec, quantized=quantized or packed)

    def what_fits(available_bytes: int, place: Place) -> list[str]:
        packs = evaluation_forecast(base.config, base.tensors, spec, quantized=True)
        four_bits = packs.card if place == "cuda" else packs.machine
        if quantized or packed or four_bits is None or four_bits.fixed_bytes > available_bytes:
            return []
        return [f"precision nf4 ({four_bits.fixed_bytes / 1e9:.1f} GB)"]

    needs = _needs(base, found, quantized=quantized and not packed)
    return Estimate(found, needs=needs, what_fits=what_fits, counts_rows=False)


def _needs(base: BaseContents, found: JobForecast, *, quantized: bool) -> Needs:
    fixed = [forecast.fixed_bytes for forecast in (found.card, found.machine) if forecast is not None]
    least = min(fixed) if fixed else weights_needs(base.size_bytes, base.config, base.tensors, quantized=quantized)
    # A claimed base may be of any size, and no worker has as much as this would need.
    return Needs(memory_bytes=min(least, MOST_MEMORY_BYTES))


def require_memory(db: Database, estimate: Estimate, *, namespace: str, queue: str, kind: str, device: str) -> None:
    """Raise DoesNotFit if none of the workers that could have the job is large enough.

    If there is none at present, nobody knows which workers will come. One that was seen within the week may come back,
    so that nothing is refused during a restart.
    """
    if estimate.lowest is None:
        return
    with db.read() as session:
        if not any(_could(worker, queue, namespace, device) for worker in available_workers(session)):
            return
        known = [worker for worker in lately_seen_workers(session) if _could(worker, queue, namespace, device)]
    # What would fit is computed once the session is closed.
    lowest = estimate.lowest
    lacking = [(worker, lowest.card if worker.device == "cuda" else lowest.machine) for worker in known]
    found = [(worker, forecast) for worker, forecast in lacking if not _has_room(worker, estimate.least_of(forecast))]
    if len(found) < len(known):
        return
    worker, forecast = max(found, key=lambda each: each[0].memory_bytes)
    assert forecast is not None
    raise DoesNotFit(_said(worker, forecast, estimate, kind), param="spec")


def _could(worker: AvailableWorker, queue: str, namespace: str, device: str) -> bool:
    return worker.serves(queue, namespace) and (device != "cuda" or worker.device == "cuda")


def _has_room(worker: AvailableWorker, least_bytes: int | None) -> bool:
    # A worker whose system does not say how much memory it has is assumed to be large enough.
    return least_bytes is None or not worker.memory_bytes or least_bytes <= worker.memory_bytes


def _said(worker: AvailableWorker, forecast: Forecast, estimate: Estimate, kind: str) -> str:
    needed, has = estimate.needed(forecast), worker.memory_bytes
    # The part that doesn't depend on rows may be too much already; otherwise the rows make it too much.
    of_rows = forecast.fixed_bytes <= has
    parts = [part for part in forecast.parts if (part.name in ROW_PARTS) == of_rows and part.where == forecast.place]
    largest = max(parts, key=lambda part: part.size_bytes)
    rows = (
        f"with {forecast.batch_size} × {forecast.max_length} tokens at once"
        if estimate.counts_rows
        else "whatever its rows"
    )
    fitting = estimate.what_fits(has, "cuda" if worker.device == "cuda" else "cpu")
    advice = f"what fits: {', or '.join(fitting)}" if fitting else "start a larger worker"
    if estimate.counts_rows:
        advice += "; where rows are shorter than that, give a smaller max length, or your own figure of the memory that it needs"
    return (
        f"this {kind} needs {needed / 1e9:.1f} GB ({needed} bytes) {rows}, {largest.size_bytes / 1e9:.1f} GB of it {largest.name}, "
        f"and the largest worker that may run it has {has / 1e9:.1f} GB ({has} bytes) "
        f"{'on its GPU' if worker.device == 'cuda' else 'of memory'}; {advice}"
    )
