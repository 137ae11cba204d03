"""The adapters that are combined, opened side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdk.errors import AdapterctlError
from sdk.formats.adapter_files import CONFIG_FILE, WEIGHTS_FILE
from sdk.lora.adapter import AdapterError, LoraAdapter, ModuleShape
from sdk.lora.adapter_config import lora_of
from sdk.lora.combining import CombiningError, Ingredient, require_combinable, require_fitting, taken_whole
from sdk.lora.factors import Factors
from sdk.lora.tensors import Tensor, read_tensors
from sdk.schemas.combination import CombineSpec
from sdk.schemas.failures import FailureReason
from sdk.schemas.lora_config import LoraConfig
from workers.pipelines.errors import PipelineError
from workers.pipelines.orders import ParentFolder


@dataclass(frozen=True)
class OpenParent:
    """One parent, whose tensors are read on demand."""

    label: str
    weight: float
    folder: Path
    #: The whole `adapter_config.json`, and its LoRA record.
    config: dict[str, Any]
    lora: LoraConfig
    adapter: LoraAdapter[Tensor]

    @property
    def ingredient(self) -> Ingredient:
        """The parent in the form that the rules check."""
        return Ingredient(self.label, self.weight, self.lora)


@dataclass(frozen=True)
class Term:
    """One parent's part of one module."""

    #: wᵢ·sᵢ, the factor for BᵢAᵢ and for B's bias.
    factor: float
    #: The factors of each expert; for a plain module, its one pair.
    factors: list[Factors]
    #: B's own bias as a column.
    bias: Factors | None


def open_parents(given: Sequence[ParentFolder], spec: CombineSpec) -> list[OpenParent]:
    """Open adapters. Raises PipelineError for those that can't be combined."""
    opened = []
    for parent in given:
        folder = parent.folder
        try:
            config = json.loads((folder / CONFIG_FILE).read_bytes())
            lora = lora_of(config)
            adapter = LoraAdapter(read_tensors(folder / WEIGHTS_FILE).values(), lora)
        except (AdapterctlError, AdapterError) as error:
            raise PipelineError(
                FailureReason.ADAPTER, f"{parent.label} can't be read: {error}; combine others, or push it again."
            ) from error
        opened.append(OpenParent(parent.label, parent.weight, folder, config, lora, adapter))
    ingredients = [parent.ingredient for parent in opened]
    try:
        require_combinable(ingredients, spec)
        if not taken_whole(ingredients, spec):
            require_fitting([(parent.label, parent.adapter) for parent in opened])
    except CombiningError as error:
        raise PipelineError(FailureReason.ADAPTER, f"{error}.") from error
    return opened


def modules_of(parents: Sequence[OpenParent]) -> list[str]:
    """Return the modules that any parent adapts, sorted."""
    return sorted({name for parent in parents for name in parent.adapter.modules})


def terms_of(name: str, parents: Sequence[OpenParent]) -> tuple[ModuleShape, list[Term]]:
    """Return the parents' parts of one module."""
    having = [parent for parent in parents if name in parent.adapter.modules]
    products = [parent.adapter.product(name) for parent in having]
    terms = [
        Term(parent.weight * product.scale.scale, product.factors(), product.bias_factors())
        for parent, product in zip(having, products, strict=True)
    ]
    return products[0].layout, terms


def common_whole(parents: Sequence[OpenParent]) -> dict[str, Tensor]:
    """Return the whole tensors by name; all parents have them with the same bytes.

    PEFT saves adapted embeddings without being asked, unchanged from the base: ΔW is added to them, and doesn't include
    them. Raises PipelineError for one that differs.
    """
    first = parents[0]
    found = dict(sorted(first.adapter.whole.items()))
    for name, tensor in found.items():
        said = tensor.bytes()
        other = next((parent for parent in parents[1:] if parent.adapter.whole[name].bytes() != said), None)
        if other is not None:
            raise PipelineError(
                FailureReason.ADAPTER,
                f"{first.label} and {other.label} hold {name} whole, and differ in it, which is not a ΔW; save and push both again "
                "with save_embedding_layers=False, if it was not trained.",
            )
    return found
