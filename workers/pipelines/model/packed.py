"""Linear modules in 4 or 8 bits: which they are, how they are made, and plain ones with the same values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import BitsAndBytesConfig

from sdk.schemas.lora_config import QuantizationRecipe
from sdk.schemas.wire import JsonScalar
from workers.pipelines.model.blueprint import blank_model, read_blueprint
from workers.pipelines.model.classifier import Classes
from workers.pipelines.model.device import DTYPES, Device, DtypeName
from workers.pipelines.model.eight_bits import wide_weight


def held_as(recipe: QuantizationRecipe | None) -> dict[str, JsonScalar] | None:
    """Return the part of a recipe that affects a base's predictions, except the names of modules that were left out."""
    if recipe is None:
        return None
    return {
        "type": recipe.type,
        "double_quant": recipe.double_quant,
        "block_size": recipe.block_size,
        "compute_dtype": recipe.compute_dtype,
        "skipped": len(recipe.skipped_modules),
    }


def packing_config(quantization: QuantizationRecipe, dtype: DtypeName, head: Sequence[str]) -> Any:
    """Return the configuration with which transformers loads a model in 4 or 8 bits, except the modules of a head."""
    skipped = sorted({*quantization.skipped_modules, *head}) or None
    if quantization.type == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=skipped)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quantization.type,
        bnb_4bit_use_double_quant=quantization.double_quant,
        bnb_4bit_compute_dtype=DTYPES[dtype],
        llm_int8_skip_modules=skipped,
    )


def quantised_names(base: Path, quantization: QuantizationRecipe, classes: Classes | None) -> list[str]:
    """Return the full names of the modules that a training with this recipe has quantised. No weights are loaded."""
    from transformers.quantizers import AutoHfQuantizer

    head = [] if classes is None else read_blueprint(base, classes).head
    model = blank_model(base, classes)
    config = packing_config(quantization, quantization.compute_dtype, head)
    quantizer = AutoHfQuantizer.from_config(config, pre_quantized=False)
    quantizer.preprocess_model(model=model, device_map={"": "cpu"}, dtype=DTYPES[quantization.compute_dtype])
    return [name for name, _ in packed_modules(model)]


def default_recipe(
    device: Device, quant_type: Literal["nf4", "fp4", "int8"] = "nf4", *, double_quant: bool = True
) -> QuantizationRecipe:
    """Return a recipe with 4 bits, by default NF4 with double quantisation, or with 8 and a scale per row, and the
    device's compute dtype.
    """
    if quant_type == "int8":
        return QuantizationRecipe(type=quant_type, compute_dtype=device.compute_dtype)
    return QuantizationRecipe(type=quant_type, double_quant=double_quant, compute_dtype=device.compute_dtype)


def packed_modules(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield (full name, module) for the linear modules in 4 or 8 bits."""
    for name, module in model.named_modules():
        if is_packed(module):
            yield name, module


def widen(model: Any, dtype: torch.dtype) -> None:
    """Replace each packed linear module by a plain one with the same dequantised values in `dtype`.

    `Linear4bit` unpacks its weight in every forward and every backward pass; the products are the same numbers. `Linear8bitLt` does so
    in training, and rounds its inputs to 8 bits otherwise, which a plain module does not.
    """
    from bitsandbytes.functional import dequantize_4bit

    for name, module in list(packed_modules(model)):
        if is_in_four_bits(module):
            weight = dequantize_4bit(module.weight.data, module.weight.quant_state).to(module.compute_dtype)
        else:
            weight = wide_weight(module, dtype)
        with torch.device("meta"):
            plain = torch.nn.Linear(module.in_features, module.out_features, bias=False)
        plain.weight = torch.nn.Parameter(weight, requires_grad=False)
        if module.bias is not None:
            plain.bias = torch.nn.Parameter(module.bias.data.to(weight.dtype), requires_grad=False)
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, plain.train(module.training))
    # The model is plain now, and libraries that check should see that.
    for attribute in ("is_loaded_in_4bit", "is_loaded_in_8bit", "is_quantized", "hf_quantizer", "quantization_method"):
        if attribute in vars(model):
            delattr(model, attribute)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    # Nor are there any packed weights to write back.
    if conversions := getattr(model, "_weight_conversions", None):
        model._weight_conversions = [each for each in conversions if not _unpacks(each)]


def _unpacks(conversion: Any) -> bool:
    from transformers.integrations.bitsandbytes import Bnb4bitDeserialize

    return any(isinstance(step, Bnb4bitDeserialize) for step in getattr(conversion, "operations", ()))


def is_packed(module: Any) -> bool:
    """Whether a module is a linear one in 4 or 8 bits."""
    from bitsandbytes.nn import Linear4bit, Linear8bitLt

    return isinstance(module, Linear4bit | Linear8bitLt)


def is_in_four_bits(module: Any) -> bool:
    """Whether a module is a linear one in 4 bits."""
    from bitsandbytes.nn import Linear4bit

    return isinstance(module, Linear4bit)


def multiplies_in_eight_bits(model: Any) -> bool:
    """Whether a token's result depends slightly on the other tokens of a pass: if one has an input above 6,
    bitsandbytes computes that column in 16 bits for all of them.
    """
    return any(not is_in_four_bits(module) for _, module in packed_modules(model))
