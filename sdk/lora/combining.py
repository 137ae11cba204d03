"""Which adapters can be combined, ΔW = Σ wᵢ·ΔWᵢ, by their records and the shapes of their tensors; the rest is refused by name.

>>> plain = LoraConfig(rank=8, alpha=16.0, dropout=0.0, target_modules=["q_proj"])
>>> dora = plain.model_copy(update={"use_dora": True})
>>> require_combinable([Ingredient("a@v1", 0.7, plain), Ingredient("b@v1", 0.3, dora)], CombineSpec())
Traceback (most recent call last):
sdk.lora.combining.CombiningError: b@v1 is a DoRA, whose magnitudes scale the whole weight, so that it adds no ΔW that could be \
weighted; combine versions that were trained without DoRA
>>> require_combinable([Ingredient("b@v1", 1.0, dora)], CombineSpec())
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from sdk.formats.peft_patterns import suffixes
from sdk.formats.peft_unusable import changes_base
from sdk.lora.adapter import AdapterError, DeltaW, LoraAdapter, T
from sdk.schemas.combination import CombineSpec
from sdk.schemas.lora_config import LoraConfig

#: Settings without a field of their own that matter only during training: their effect is in A and B, or in the patterns.
OF_THE_TRAINING = (
    "corda_config",
    "eva_config",
    "exclude_modules",
    "loftq_config",
    "lora_ga_config",
    "qalora_group_size",
)
#: A matrix of one expert, which PEFT joins with those of the other experts.
_SINGLE_EXPERT = re.compile(r"\bexperts\.[0-9]+\.")


class CombiningError(ValueError):
    """Adapters can't be combined as requested; `param` names the part of the request."""

    def __init__(self, message: str, param: str = "parents") -> None:
        super().__init__(message)
        self.param = param


class Ingredient(NamedTuple):
    """One adapter of a combination."""

    #: What messages call it.
    label: str
    weight: float
    lora: LoraConfig


def greatest_rank(lora: LoraConfig) -> int:
    """Return the largest rank that a record gives any module; for stacked experts, the rank of each expert."""
    return max(lora.rank, *lora.rank_pattern.values(), 1)


def taken_whole(parents: Sequence[Ingredient], spec: CombineSpec) -> bool:
    """Whether a combination has one parent of weight 1: then its weights are copied byte for byte, whatever they are."""
    return (
        len(parents) == 1
        and parents[0].weight == 1
        and (spec.rank is None or spec.rank >= greatest_rank(parents[0].lora))
    )


def require_combinable(parents: Sequence[Ingredient], spec: CombineSpec) -> None:
    """Raise CombiningError for adapters whose weighted sum is not a LoRA, or can't be computed exactly."""
    for parent in parents:
        if said := _unusable(parent.lora):
            raise CombiningError(f"{parent.label} {said}")
    if taken_whole(parents, spec):
        return
    for parent in parents:
        if said := next(_beside_the_factors(parent.lora), None):
            raise CombiningError(f"{parent.label} {said}")
    _require_alike(parents)
    most = sum(greatest_rank(parent.lora) for parent in parents)
    if spec.rank is not None and spec.rank > most:
        raise CombiningError(
            f"rank is {spec.rank}, and the ranks of the parents add up to {most}; give {most} or less, or the method linear",
            "spec.rank",
        )


def _unusable(lora: LoraConfig) -> str | None:
    if changes_base(lora.init):
        return (
            f"has init_lora_weights {lora.init!r}, which changes the base, so that A and B are not an update of the base as it is; "
            "save it again with path_initial_model_for_weight_conversion, push that, and combine it"
        )
    if lora.layer_replication:
        return "has layer_replication, so that it is of another model than its base; push it over the stacked model"
    if lora.alora_invocation_tokens:
        return "acts after some tokens only (alora_invocation_tokens); combine versions that act on each token"
    return None


def _beside_the_factors(lora: LoraConfig) -> Iterator[str]:
    """Say what an adapter has besides A, B and B's bias; only those can be added up."""
    if lora.use_dora:
        yield (
            "is a DoRA, whose magnitudes scale the whole weight, so that it adds no ΔW that could be weighted; combine "
            "versions that were trained without DoRA"
        )
    if lora.modules_to_save:
        yield (
            f"replaces {', '.join(lora.modules_to_save[:5])} whole (modules_to_save), which is not a low-rank ΔW; combine "
            "versions without, and use a version with one as it is"
        )
    if lora.bias != "none":
        yield (
            f"has trained biases of the base (bias {lora.bias!r}), which it holds whole and not as a difference; combine versions "
            "that were trained with bias 'none'"
        )
    if lora.trainable_token_indices:
        yield (
            "has trained single tokens (trainable_token_indices), which it holds whole and not as a difference; combine "
            "versions that were trained without"
        )
    for key in lora.other:
        setting = key.partition(".")[0]
        if setting not in OF_THE_TRAINING:
            yield f"has {setting}, with which a layer adds something else than s·B·A; combine versions without it"


def _require_alike(parents: Sequence[Ingredient]) -> None:
    first = parents[0]
    for parent in parents[1:]:
        if parent.lora.lora_bias != first.lora.lora_bias:
            has, lacks = (parent, first) if parent.lora.lora_bias else (first, parent)
            raise CombiningError(
                f"{has.label} has lora_bias and {lacks.label} has not, and PEFT gives all modules of an adapter a bias or none; "
                "combine versions that agree in it"
            )
    stacked = [parent for parent in parents if parent.lora.target_parameters]
    for parent in stacked[1:]:
        if set(parent.lora.target_parameters) != set(stacked[0].lora.target_parameters):
            raise CombiningError(
                f"{stacked[0].label} adapts the parameters {', '.join(stacked[0].lora.target_parameters)[:200]} and "
                f"{parent.label} adapts {', '.join(parent.lora.target_parameters)[:200]}, and files don't say which of a "
                "module's parameters a matrix is of; combine versions with the same target_parameters"
            )
    tasks = {parent.lora.task_type: parent.label for parent in parents if parent.lora.task_type is not None}
    if len(tasks) > 1:
        said = ", ".join(f"{label} says {task}" for task, label in sorted(tasks.items()))
        raise CombiningError(
            f"the parents are of different tasks, whose models name their modules differently ({said}); combine versions of one task"
        )


def require_fitting(parents: Sequence[tuple[str, LoraAdapter[T]]]) -> None:
    """Raise CombiningError if the adapters' tensors don't fit together module by module; messages use the labels."""
    _require_same_names(parents)
    _require_same_whole(parents)
    first: dict[str, tuple[str, LoraAdapter[T], DeltaW[T]]] = {}
    for label, adapter in parents:
        for name in adapter.modules:
            found = _product_of(label, adapter, name)
            other_label, other, module = first.setdefault(name, (label, adapter, found))
            if module.layout != found.layout:
                raise CombiningError(
                    f"{name} is {found.layout} in {label} and {module.layout} in {other_label}; they are of different models"
                )
            if bool(adapter.parameters_of(name)) != bool(other.parameters_of(name)):
                raise CombiningError(
                    f"one of {label} and {other_label} adapts {name} as a module, and the other as a parameter; combine versions "
                    "with the same target_modules and target_parameters"
                )


def is_single_expert(module: str) -> bool:
    """Whether a module is a matrix of one expert: `experts.0.w1`."""
    return _SINGLE_EXPERT.search(module) is not None


def _product_of(label: str, adapter: LoraAdapter[T], module: str) -> DeltaW[T]:
    try:
        return adapter.product(module)
    except AdapterError as error:
        raise CombiningError(f"{label} can't be combined, for {error}; combine others") from error


def _require_same_names(parents: Sequence[tuple[str, LoraAdapter[T]]]) -> None:
    """Raise CombiningError if two adapters seem to use two names for one module: PEFT would load neither."""
    single = next((label for label, adapter in parents if any(map(is_single_expert, adapter.modules))), None)
    stacked = next((label for label, adapter in parents if adapter.lora.target_parameters), None)
    if single is not None and stacked is not None:
        raise CombiningError(
            f"{single} adapts experts one by one, and {stacked} all of a layer as a parameter, under other names; combine versions "
            "of one kind"
        )
    having: dict[str, list[str]] = {}
    for label, adapter in parents:
        for name in adapter.modules:
            having.setdefault(name, []).append(label)
    for name, labels in having.items():
        for other in suffixes(name):
            if other != name and other in having and not set(labels) & set(having[other]):
                raise CombiningError(
                    f"{labels[0]} calls a module {name} and {having[other][0]} one {other}, which seem to be the same; combine "
                    "versions that were trained as models of one class"
                )


def _require_same_whole(parents: Sequence[tuple[str, LoraAdapter[T]]]) -> None:
    """Raise CombiningError for a whole tensor that isn't equal in all adapters: PEFT saves adapted embeddings without
    being asked.
    """
    holders = {name: (label, tensor) for label, adapter in parents for name, tensor in adapter.whole.items()}
    for name, (holder, tensor) in sorted(holders.items()):
        for label, adapter in parents:
            other = adapter.whole.get(name)
            if other is None or (other.dtype, other.shape) != (tensor.dtype, tensor.shape):
                raise CombiningError(
                    f"{holder} holds {name} whole, which is not a ΔW, and {label} has none or another; save and push "
                    f"{holder} again with save_pretrained(FOLDER, save_embedding_layers=False)"
                )
