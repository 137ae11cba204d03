"""A training that continues a version: base, method and LoRA configuration are the version's, the rest is chosen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sdk.errors import InvalidInput
from sdk.schemas.catalog import VersionView
from sdk.schemas.job_requests import BaseChoice
from sdk.schemas.training import TrainingSpec
from sdk.validation import build, require_adapter


def continued_spec(parent: VersionView, given: Mapping[str, Any]) -> TrainingSpec:
    """Return the spec of a training that continues a version, with the options `given`. Raises InvalidInput if one of
    them contradicts the version.
    """
    require_adapter(
        parent.ref,
        parent.kind,
        "it can't be continued; register it as a base and train an adapter over that",
        param="parent",
    )
    method = given.get("method") if parent.method == "unknown" else parent.method
    if method is None:
        raise InvalidInput(
            f"the record of {parent.ref} doesn't say how it was trained; give method: lora, or qlora for a base in 4 bits",
            param="method",
        )
    lora, recipe = parent.lora, parent.quantization
    theirs: dict[str, Any] = {
        "method": method,
        "rank": lora.rank,
        "alpha": lora.alpha,
        "targets": [*lora.target_modules, *lora.target_parameters],
        "exclude": None,
        "use_rslora": lora.use_rslora,
        "use_dora": lora.use_dora,
        "init_lora_weights": None,
        "eva_rho": 1.0,
        "rank_pattern": lora.rank_pattern or None,
        "alpha_pattern": lora.alpha_pattern or None,
        "layers_to_transform": None,
        "bias": lora.bias,
        "modules_to_save": lora.modules_to_save or None,
        "trainable_token_indices": lora.trainable_token_indices or None,
    }
    if recipe is not None and recipe.storage_dtype is None and given.get("method", method) == "qlora":
        theirs |= {"quant_type": recipe.type, "double_quant": recipe.double_quant or recipe.type == "int8"}
    own, asked = (
        build(TrainingSpec, **values) for values in ({**theirs}, {"dropout": lora.dropout, **theirs, **given})
    )
    for name in theirs:
        if name in given and getattr(asked, name) != getattr(own, name):
            raise InvalidInput(
                f"{parent.ref} keeps its {name}, {str(getattr(own, name))[:80]}, when it is continued; leave {name} out",
                param=name,
            )
    return asked


def base_of(parent: VersionView) -> BaseChoice:
    """Return the base of a version in the form in which a training is pinned to it."""
    return BaseChoice(id=parent.base.id, revision=parent.base.revision, fingerprint=parent.base.fingerprint)
