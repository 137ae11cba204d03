"""The adapters that are combined, opened side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdk.errors import AdapterctlError
from sdk.formats.adapter_files import CONFIG_FILE
from sdk.lora.adapter_config import lora_of
from sdk.lora.combining import CombiningError, Ingredient, require_combinable, require_fitting, taken_whole
from sdk.lora.factors import Factors
from sdk.lora.module_factors import AdapterFactors
from sdk.lora.module_outlines import Layout, OutlineError
from sdk.schemas.combination import CombineSpec
from sdk.schemas.failures import FailureReason
from sdk.schemas.lora_config import LoraConfig
from workers.pipelines.combining.order import ParentFolder
from workers.pipelines.errors import PipelineError


@dataclass(frozen=True)
class OpenParent:
    """One parent, whose tensors are read when they are asked for."""

    label: str
    weight: float
    folder: Path
    #: The whole `adapter_config.json`, and what a record has of it.
    config: dict[str, Any]
    lora: LoraConfig
    tensors: AdapterFactors

    @property
    def ingredient(self) -> Ingredient:
        """As rules see it."""
        return Ingredient(self.label, self.weight, self.lora)


@dataclass(frozen=True)
class Term:
    """One parent's part of one module."""

    #: wᵢ·sᵢ, which BᵢAᵢ is multiplied by, and B's bias.
    factor: float
    #: Of each expert; of a plain module its one pair.
    factors: list[Factors]
    #: B's own bias as a column.
    bias: Factors | None


def open_parents(given: Sequence[ParentFolder], spec: CombineSpec) -> list[OpenParent]:
    """Open adapters. Raises PipelineError for those that can't be combined."""
    opened = []
    for parent in given:
        folder = Path(parent.folder)
        try:
            config = json.loads((folder / CONFIG_FILE).read_bytes())
            lora = lora_of(config)
            tensors = AdapterFactors(folder, lora)
        except (AdapterctlError, OutlineError) as error:
            raise PipelineError(
                FailureReason.ADAPTER, f"{parent.label} can't be read: {error}; combine others, or push it again."
            ) from error
        opened.append(OpenParent(parent.label, parent.weight, folder, config, lora, tensors))
    ingredients = [parent.ingredient for parent in opened]
    try:
        require_combinable(ingredients, spec)
        if not taken_whole(ingredients, spec):
            require_fitting([(parent.label, parent.tensors.outline) for parent in opened])
    except CombiningError as error:
        raise PipelineError(FailureReason.ADAPTER, f"{error}.") from error
    return opened


def modules_of(parents: Sequence[OpenParent]) -> list[str]:
    """Return the modules that any parent adapts, sorted."""
    return sorted({name for parent in parents for name in parent.tensors.outline.modules})


def terms_of(name: str, parents: Sequence[OpenParent]) -> tuple[Layout, list[Term]]:
    """Return what the parents add to one module."""
    having = [parent for parent in parents if name in parent.tensors.outline.modules]
    outlines = [parent.tensors.outline.of(name) for parent in having]
    terms = [
        Term(parent.weight * module.scale.scale, parent.tensors.of(module), parent.tensors.bias(module))
        for parent, module in zip(having, outlines, strict=True)
    ]
    return outlines[0].layout, terms


def common_whole(parents: Sequence[OpenParent]) -> list[str]:
    """Return the names of the whole tensors, which all parents hold, with the same bytes.

    PEFT saves embeddings unasked where they are adapted, as the base has them: ΔW is added to them, and they are no part of
    it. Raises PipelineError for one that differs.
    """
    first = parents[0]
    names = sorted(first.tensors.outline.whole)
    for name in names:
        said = first.tensors.bytes_of(name)
        other = next((parent for parent in parents[1:] if parent.tensors.bytes_of(name) != said), None)
        if other is not None:
            raise PipelineError(
                FailureReason.ADAPTER,
                f"{first.label} and {other.label} hold {name} whole, and differ in it, which is no ΔW; save and push both again "
                "with save_embedding_layers=False, if it was not trained.",
            )
    return names
