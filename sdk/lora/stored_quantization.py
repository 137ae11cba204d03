"""Bases that are stored quantised: the method, from their config, and what may be done over them.

A QLoRA trains over weights that bitsandbytes packed in 4 bits as they are, and uses and records their own recipe. Every
other method is refused by its name: training over it has not been tested here.

>>> said = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}}
>>> stored_recipe(said).type, stored_recipe({}) is None
('nf4', True)
>>> stored_recipe({"quantization_config": {"quant_method": "gptq", "bits": 4}})
Traceback (most recent call last):
sdk.lora.stored_quantization.StoredQuantizationError: is quantised by 'gptq'; nothing can be trained, evaluated \
or merged over that; take the 16-bit base that it was made from
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import ValidationError

from sdk.formats.packed_weights import packs_single_experts
from sdk.schemas.evaluation import BasePrecision, Onto
from sdk.schemas.lora_config import QuantizationRecipe

#: The keys under which a config says how its weights are quantised; the last is compressed-tensors' first one.
_KEYS = ("quantization_config", "compression_config")
_ADVICE = "take the 16-bit base that it was made from"

#: The part of a request that is refused: the base itself, or the setting with that name.
Param = Literal["base", "method", "quant_type", "double_quant", "precision", "onto", "measure"]


class StoredQuantizationError(ValueError):
    """What can't be done over a base because of its quantisation: a clause whose subject is the base, and what to do."""

    def __init__(self, said: str, *, param: Param) -> None:
        super().__init__(said)
        self.param = param


def stored_recipe(config: Mapping[str, Any], tensors: Iterable[str] = ()) -> QuantizationRecipe | None:
    """Return the recipe of a base that bitsandbytes packed in 4 bits, None for one that is not quantised.

    Missing keys of the config get transformers' defaults; `tensors` are the names in its weight files. Raises
    StoredQuantizationError for any other method, and for experts that are packed one by one.
    """
    said = _said(config)
    if not said:
        return None
    if said.get("load_in_4bit") is not True or said.get("quant_method", "bitsandbytes") != "bitsandbytes":
        raise StoredQuantizationError(
            f"is quantised by {_method(said)}; nothing can be trained, evaluated or merged over that; {_ADVICE}",
            param="base",
        )
    if packs_single_experts(tensors):
        raise StoredQuantizationError(
            f"has experts that bitsandbytes packed one by one, which transformers can no longer load; {_ADVICE}",
            param="base",
        )
    try:
        return QuantizationRecipe(
            type=said.get("bnb_4bit_quant_type", "fp4"),
            double_quant=said.get("bnb_4bit_use_double_quant", False),
            compute_dtype=_dtype(said.get("bnb_4bit_compute_dtype", "float32")),
            storage_dtype=_dtype(said.get("bnb_4bit_quant_storage", "uint8")),
            skipped_modules=sorted(said.get("llm_int8_skip_modules") or []),
        )
    except (ValidationError, TypeError) as error:
        raise StoredQuantizationError(
            f"is packed in 4 bits by bitsandbytes with unknown settings; {_ADVICE}", param="base"
        ) from error


def require_method(
    recipe: QuantizationRecipe | None,
    method: Literal["qlora", "lora"],
    quant_type: Literal["nf4", "fp4", "int8"] = "nf4",
    double_quant: bool = True,
) -> None:
    """Raise StoredQuantizationError if a base is stored in 4 bits, and a training is not a QLoRA or asks for others than these.

    A training that asks neither for FP4 or 8 bits, nor for unquantised scales, uses whatever is stored.
    """
    if recipe is None:
        return
    if quant_type not in ("nf4", recipe.type):
        raise StoredQuantizationError(
            f"is stored in 4 bits ({recipe.type}), and is trained over as it is stored; leave quant_type out",
            param="quant_type",
        )
    if not double_quant and recipe.double_quant:
        raise StoredQuantizationError(
            "is stored in 4 bits with double quantisation, and is trained over as it is stored; leave double_quant out",
            param="double_quant",
        )
    if method != "qlora":
        raise StoredQuantizationError(
            f"is stored in 4 bits ({recipe.type}), so only QLoRA can train over it; choose the method qlora, or {_ADVICE}",
            param="method",
        )


def require_precision(recipe: QuantizationRecipe | None, precision: BasePrecision) -> None:
    """Raise StoredQuantizationError if a base that is stored in 4 bits doesn't have the requested precision."""
    if recipe is not None and precision not in ("as-trained", recipe.type):
        raise StoredQuantizationError(
            f"is stored in {recipe.type}, and has no {precision} weights; ask for as-trained, or {_ADVICE}",
            param="precision",
        )


def require_onto(recipe: QuantizationRecipe | None, onto: Onto) -> None:
    """Raise StoredQuantizationError if a merge is onto weights that the base doesn't have."""
    if recipe is not None and onto == "original":
        raise StoredQuantizationError(
            f"is stored in {recipe.type}, and has no 16-bit weights to merge onto; merge onto dequantized, which writes its "
            "weights in 16 bit",
            param="onto",
        )


def require_unpacking(recipe: QuantizationRecipe | None, onto: Onto) -> None:
    """Raise StoredQuantizationError if a merge is onto a base dequantised from 8 bits, which merges don't support."""
    if recipe is not None and recipe.type == "int8" and onto == "dequantized":
        raise StoredQuantizationError(
            "was quantised to int8 by the training, and merges dequantise 4 bits alone; merge onto original, whose distance from what was "
            "trained is measured",
            param="onto",
        )


def require_measuring(stored: QuantizationRecipe | None, onto: Onto, *, quantized: bool, measured: bool) -> None:
    """Raise StoredQuantizationError if a merge is to keep the nearer of two bases, and measures neither.

    `stored` is how the base is stored; `quantized`: the training quantised it.
    """
    if quantized and stored is None and onto == "auto" and not measured:
        raise StoredQuantizationError(
            "was quantised by the training, so a merge onto auto keeps the nearer of two, and has to measure; merge onto original, "
            "or onto dequantized, which is what was trained, or leave the measuring on",
            param="measure",
        )


def _said(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a config, or its text model's, says about quantisation; {} if nothing. Raises StoredQuantizationError."""
    text = config.get("text_config")
    for part in (config, text if isinstance(text, Mapping) else {}):
        for key in _KEYS:
            if found := part.get(key):
                if isinstance(found, Mapping):
                    return found
                raise StoredQuantizationError(f"has a {key} that is not an object; {_ADVICE}", param="base")
    return {}


def _method(said: Mapping[str, Any]) -> str:
    """Return the method's name in its usual spelling; the config is untrusted."""
    if said.get("load_in_8bit") is True:
        return "'bitsandbytes' in 8 bits"
    named = said.get("quant_method")
    return f"{named[:40]!a}" if isinstance(named, str) else "an unnamed method"


def _dtype(value: Any) -> Any:
    return value.removeprefix("torch.") if isinstance(value, str) else value
