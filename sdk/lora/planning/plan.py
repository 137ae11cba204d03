"""From a blueprint and options to a plan: the forecast of each method, the cards, and a recommendation.

>>> from sdk.lora.planning.recommending import Asked
>>> from sdk.lora.planning.blueprint import blueprint_of
>>> llama = blueprint_of({"model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
...                       "intermediate_size": 11008, "vocab_size": 32000})
>>> plan = plan_of(llama, Asked(gpu="24GB"))
>>> plan.method, plan.trainable, plan.verdict
('qlora', 8388608, 'fits')
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import get_args

from sdk.formats.objectives import traits_of
from sdk.lora.planning.adapter import AdapterPlan, adapter_of
from sdk.lora.planning.blueprint import ModelShapes
from sdk.lora.planning.cards import CARDS, GpuCard, card_of
from sdk.lora.planning.footprint import HALF
from sdk.lora.planning.forecast import Run, forecast_of, keeps_activations
from sdk.lora.planning.recommending import Asked, recommended
from sdk.schemas.planning import CardFit, Forecast, Plan, PlanMethod, Verdict
from sdk.schemas.training import OF_ADAPTERS, TrainingSpec

#: A training fits a card if it takes at most this share of it.
ROOMY = 0.7
#: Rows are shortened if more than this share would be taken: the allocator leaves gaps.
FULL_ENOUGH = 0.9
_SHORTEST = 256
_HEAD = "lm_head.weight"
#: The parts that are already on the card when a worker decides about checkpointing.
_LOADED = ("weights", "weights in 4 bits", "weights in 8 bits", "weights in 16 bits", "adapter", "CUDA context")
METHODS: tuple[PlanMethod, ...] = get_args(PlanMethod)


@dataclass(frozen=True)
class _Planner:
    base: ModelShapes
    asked: Asked
    adapter: AdapterPlan

    def forecast(
        self, method: PlanMethod, *, batch: int, length: int, checkpointing: bool, at_once: bool = False
    ) -> Forecast:
        """Return the parts of one configuration; `at_once`: with the logits of all tokens in memory, as in most trainers."""
        asked = self.asked
        whole = batch * traits_of(asked.spec.objective).sequences * length if at_once else None
        run = Run(
            spec=asked.spec,
            method=method,
            batch_size=batch,
            max_length=length,
            checkpointing=checkpointing,
            width=asked.width if method == "lora" else HALF,
            attention=asked.attention,
            logit_chunk_tokens=asked.logit_chunk_tokens or whole,
        )
        return forecast_of(self.base, self.adapter, run)

    def asked_for(self, method: PlanMethod) -> Forecast:
        """Return the usual forecast: with the requested batch and length, and with checkpointing unless it is turned off."""
        spec = self.asked.spec
        checkpointing = self.asked.gradient_checkpointing is not False
        return self.forecast(
            method, batch=spec.batch_size, length=spec.max_length, checkpointing=checkpointing, at_once=True
        )

    def as_run(self, method: PlanMethod, card: GpuCard, *, batch: int, length: int) -> Forecast:
        """Return the forecast with checkpointing as requested, or else as a worker with that card chooses it."""
        checkpointing = self.asked.gradient_checkpointing
        if checkpointing is None:
            kept = self.forecast(method, batch=batch, length=length, checkpointing=False)
            sizes = {part.name: part.size_bytes for part in kept.parts if part.where == "card"}
            loaded = sum(sizes.get(name, 0) for name in _LOADED)
            checkpointing = not keeps_activations(
                sizes["activations"] + sizes.get("logits", 0), free_bytes=card.memory_bytes - loaded
            )
        return self.forecast(method, batch=batch, length=length, checkpointing=checkpointing)


def plan_of(base: ModelShapes, asked: Asked) -> Plan:
    """Return a plan. Raises TargetsError for targets that select nothing in the base, CardError for an unknown card."""
    card = None if asked.gpu is None else card_of(asked.gpu)
    if not traits_of(asked.spec.objective).predicts_tokens:
        # It has another head, with a row for each class.
        base = replace(base, tensors={name: size for name, size in base.tensors.items() if name != _HEAD})
    planner = _Planner(base, asked, adapter_of(base, asked.spec))
    customary = {method: planner.asked_for(method) for method in METHODS}
    method = asked.method or _method(customary, card)
    card = card or next(_cards_that_fit(planner, method, customary[method]), None)
    chosen = _configured(planner, method, card)
    full = method == "full"
    trainable = base.parameters if full else planner.adapter.trainable
    return Plan(
        model_type=base.model_type,
        parameters=base.parameters,
        shapes_from=base.shapes_from,
        method=method,
        trainable=trainable,
        percent_of_base=100 * trainable / base.parameters,
        percent_of_both=100.0 if full else 100 * trainable / (base.parameters + trainable),
        trainable_by_module={} if full else planner.adapter.by_target(),
        adapter_size_bytes=0 if full else planner.adapter.size_bytes,
        forecast=chosen,
        card_bytes={name: forecast.card_bytes for name, forecast in customary.items()},
        card=None if card is None else card.name,
        verdict="no" if card is None else _verdict(chosen, card),
        cards=[
            CardFit(
                card=each.name,
                memory_bytes=each.memory_bytes,
                source=each.source,
                **{name: _verdict(forecast, each) for name, forecast in customary.items()},
            )
            for each in (*CARDS, *([card] if card is not None and card not in CARDS else []))
        ],
        recommendation=recommended(asked, chosen, customary, card, roomy=ROOMY),
        notes=list(_notes(planner, chosen, card)),
    )


def _method(customary: dict[PlanMethod, Forecast], card: GpuCard | None) -> PlanMethod:
    """Return "lora" if it takes at most 70 % of the GPU's memory, and "qlora" otherwise or without a card."""
    return "lora" if card is not None and _verdict(customary["lora"], card) == "fits" else "qlora"


def _cards_that_fit(planner: _Planner, method: PlanMethod, customary: Forecast) -> Iterator[GpuCard]:
    """The cards that a training fits with the requested batch and length, as it would run there; the smallest first."""
    for card in CARDS:
        if _verdict(customary, card) == "fits" == _verdict(_configured(planner, method, card), card):
            yield card


def _verdict(forecast: Forecast, card: GpuCard) -> Verdict:
    needed = forecast.card_bytes
    return "fits" if needed <= ROOMY * card.memory_bytes else "tight" if needed <= card.memory_bytes else "no"


def _configured(planner: _Planner, method: PlanMethod, card: GpuCard | None) -> Forecast:
    """Return the first configuration that fits: smaller batches, then checkpointing, then shorter rows; else the smallest.

    Batch and length are chosen here; whether such a batch is checkpointed follows the worker's rule. Rows are shortened
    only if nothing takes at most 90 % of the card.
    """
    asked, spec = planner.asked, planner.asked.spec
    if card is None:
        # The usual configuration is more informative than the smallest.
        return planner.asked_for(method)
    fixed = TrainingSpec.model_fields if asked.as_given else asked.given
    batches = [spec.batch_size]
    while batches[-1] % 2 == 0 and "batch_size" not in fixed:
        batches.append(batches[-1] // 2)
    lengths = [spec.max_length]
    while lengths[-1] // 2 >= _SHORTEST and "max_length" not in fixed:
        lengths.append(lengths[-1] // 2)
    for length in lengths:
        each = [planner.as_run(method, card, batch=batch, length=length) for batch in batches]
        # Sorting keeps larger batches before smaller ones.
        each.sort(key=lambda forecast: forecast.gradient_checkpointing)
        for share in (ROOMY, FULL_ENOUGH):
            for tried in each:
                if tried.card_bytes <= share * card.memory_bytes:
                    return tried
    return each[-1]


def _of_objective(objective: str | None, base: ModelShapes) -> Iterator[str]:
    """Say what an objective means for memory and time."""
    traits = traits_of(objective)
    if objective is None:
        yield (
            "no objective is given, and rows decide it: counted is sft; pairs of answers (dpo and others) have two sequences per row, and "
            "classify has no logits of the vocabulary"
        )
    if not traits.predicts_tokens:
        yield f"the head that classifies is not counted: it has {base.hidden} numbers for each class"
    if traits.time > 1:
        looked_at = f", and {traits.looked_at} that are only looked at" if traits.looked_at else ""
        yield (
            f"a row of {objective} has {traits.sequences} {'sequences' if traits.has_pairs else 'sequence'} to learn{looked_at}: it takes "
            f"about {traits.time:.2g} times as long as a row of sft of one sequence's length"
        )


def _notes(planner: _Planner, chosen: Forecast, card: GpuCard | None) -> Iterator[str]:
    base, asked = planner.base, planner.asked
    if not base.known:
        yield "the family is not known: counts are exact, and activations are those of a Llama of this size, so memory may be off"
    yield from _of_objective(asked.spec.objective, base)
    if asked.spec.moves_ranks and chosen.method != "full":
        yield (
            f"eva_rho moves ranks between modules: counted is each at its rank, and the rows may make it up to "
            f"{planner.adapter.most_trainable(asked.spec):,} parameters"
        )
    if asked.stored is not None:
        yield f"the base is stored in 4 bits ({asked.stored.type}), so only qlora trains over it; lora and full are here to compare with"
    if asked.gradient_checkpointing is not None:
        yield "a training has no option for checkpointing: its worker chooses by its free memory"
    if base.left_out:
        yield f"{base.left_out} is not counted: rows of text don't train it, but it takes memory where it is loaded"
    if chosen.method == "full":
        yield "adapterctl trains adapters; full fine-tuning is here to compare with"
        if asked.spec.optimizer.name != "adamw":
            yield f"full fine-tuning is counted with Adam's moments in 16 bits, not with {asked.spec.optimizer.name}"
        if idle := sorted(OF_ADAPTERS & set(asked.given)):
            yield f"full fine-tuning has no adapter and trains over no quantised base: {', '.join(idle)} {'does' if len(idle) == 1 else 'do'} not count"
    if base.stacked and chosen.method == "qlora":
        yield "experts are held as stacked parameters, which bitsandbytes doesn't pack, so they stay in 16 bits"
    if card is None or chosen.card_bytes > card.memory_bytes:
        largest = chosen.largest
        other = next((each.name for each in CARDS if chosen.card_bytes <= ROOMY * each.memory_bytes), None)
        fits = f"a GPU that it fits: {other}" if other else "no GPU of the table has room for it"
        where = "no GPU of the table" if card is None else card.name
        yield f"it does not fit {where}: {largest.name} take {largest.size_bytes / 1e9:.1f} GB of {chosen.card_bytes / 1e9:.1f}; {fits}"
