"""Which kinds of adapters there are, and how each is served beside others: one table, in which each row has a test.

An adapter is of every kind that its config and the names in its file show; of their placements the most separate one
counts. What is of no known kind gets a base of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sdk.formats.adapter_files import base_parameter, lora_key, unwrapped
from sdk.formats.peft_unusable import unusable
from sdk.lora.trained_tokens import highest_token
from workers.serving.decoding.errors import AdapterRefused
from workers.serving.decoding.requests import ServedPlacement

#: Settings that only say how A and B were trained, or where they are: with them an adapter is still W + s·B·A.
_OF_MATRICES = frozenset(
    {
        "alpha_pattern",
        "auto_mapping",
        "base_model_name_or_path",
        "corda_config",
        "ensure_weight_tying",
        "eva_config",
        "exclude_modules",
        "fan_in_fan_out",
        "inference_mode",
        "init_lora_weights",
        "layers_pattern",
        "layers_to_transform",
        "loftq_config",
        "lora_alpha",
        "lora_bias",
        "lora_dropout",
        "lora_ga_config",
        "peft_type",
        "peft_version",
        "qalora_group_size",
        "r",
        "rank_pattern",
        "revision",
        "runtime_config",
        "target_modules",
        "task_type",
        "use_rslora",
    }
)
#: Settings that kinds below are recognised by.
_OF_KINDS = frozenset({"bias", "modules_to_save", "target_parameters", "trainable_token_indices", "use_dora"})
_ORDER = (ServedPlacement.SHARES_A_BATCH, ServedPlacement.OWN_BATCH, ServedPlacement.OWN_BASE)


@dataclass(frozen=True)
class Outline:
    """What an adapter's kinds are recognised by."""

    #: `adapter_config.json`, and the names of the tensors in the file.
    config: Mapping[str, Any]
    tensors: Sequence[str]
    #: For how many tokens the base has an embedding, and the names of the parameters of its embedding and its head.
    vocabulary: int
    embeddings: frozenset[str] = frozenset()

    @property
    def written(self) -> frozenset[str]:
        """The base's parameters that the file has whole."""
        saved = {str(name).rpartition(".")[2] for name in self.config.get("modules_to_save") or ()}
        whole = {unwrapped(base_parameter(name) or name) for name in self.tensors if lora_key(name) is None}
        return frozenset(name for name in whole if not saved & set(name.split(".")) and "trainable_tokens" not in name)


@dataclass(frozen=True)
class AdapterKind:
    """A kind of adapters."""

    name: str
    placement: ServedPlacement
    applies: Callable[[Outline], bool]
    #: Which of the base's parameters the adapter changes in place, and needs copies of.
    changes: Callable[[Outline, str], bool] = lambda outline, parameter: False


@dataclass(frozen=True)
class ServedAs:
    """How an adapter is served."""

    kinds: tuple[str, ...]
    placement: ServedPlacement
    #: Whether it needs a copy of a parameter of the base, by its name.
    changes: Callable[[str], bool]


def _unknown(outline: Outline) -> bool:
    return any(
        value not in (None, False, [], {}, "", "none") and name not in _OF_MATRICES | _OF_KINDS
        for name, value in outline.config.items()
    )


def _in_experts(outline: Outline) -> bool:
    keys = [key for name in outline.tensors if (key := lora_key(name)) is not None]
    return any("experts" in key.module.split(".") for key in keys)


TABLE = (
    AdapterKind("matrices", ServedPlacement.SHARES_A_BATCH, lambda outline: True),
    # PEFT refuses a mixed batch for these.
    AdapterKind("magnitudes", ServedPlacement.OWN_BATCH, lambda outline: bool(outline.config.get("use_dora"))),
    # PEFT mixes rows for linear modules and embeddings only, and leaves a saved one out in silence if another adapter is active.
    AdapterKind(
        "saved modules", ServedPlacement.OWN_BATCH, lambda outline: bool(outline.config.get("modules_to_save"))
    ),
    AdapterKind(
        "tokens", ServedPlacement.OWN_BATCH, lambda outline: bool(outline.config.get("trainable_token_indices"))
    ),
    # Experts read tokens of several rows at once, in an order in which a row's adapter is no longer known.
    AdapterKind(
        "experts",
        ServedPlacement.OWN_BATCH,
        lambda outline: bool(outline.config.get("target_parameters")) or _in_experts(outline),
    ),
    AdapterKind(
        "biases",
        ServedPlacement.OWN_BASE,
        lambda outline: (outline.config.get("bias") or "none") != "none",
        lambda outline, parameter: parameter.endswith(".bias"),
    ),
    AdapterKind(
        "whole embeddings",
        ServedPlacement.OWN_BASE,
        lambda outline: any(not name.endswith(".bias") for name in outline.written),
        # If their number differs, transformers resizes both in place.
        lambda outline, parameter: parameter in outline.written | outline.embeddings,
    ),
    AdapterKind(
        "added tokens",
        ServedPlacement.OWN_BASE,
        lambda outline: highest_token(outline.config.get("trainable_token_indices")) >= outline.vocabulary,
        lambda outline, parameter: parameter in outline.embeddings,
    ),
    AdapterKind("unknown", ServedPlacement.OWN_BASE, _unknown, lambda outline, parameter: True),
)


def judge(outline: Outline) -> ServedAs:
    """Return how an adapter is served. Raises AdapterRefused for one that answers no prompts, or isn't LoRA's."""
    config = outline.config
    if config.get("task_type") not in (None, "CAUSAL_LM"):
        raise AdapterRefused(
            f"an adapter for the task {config.get('task_type')} writes no text; score it with: adapterctl eval"
        )
    if config.get("peft_type") != "LORA":
        raise AdapterRefused("its peft_type isn't LORA, and others can't be served; train it as LoRA")
    if (clause := unusable(config)) is not None:
        raise AdapterRefused(f"the adapter can't be served, since {clause}")
    kinds = [kind for kind in TABLE if kind.applies(outline)]
    return ServedAs(
        kinds=tuple(kind.name for kind in kinds),
        placement=max((kind.placement for kind in kinds), key=_ORDER.index),
        changes=lambda parameter: any(kind.changes(outline, parameter) for kind in kinds),
    )
