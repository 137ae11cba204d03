"""Linear modules in 4 or 8 bits: which they are, how they are made, plain ones with the same values, and whether this processor can
compute with them.

In 8 bits (LLM.int8, arXiv:2208.07339) each weight has an int8 and each row a float32: W = codes · scale / 127. bitsandbytes
quantises inputs too if nothing is trained, so products are off by about a hundredth; on processors without the instructions it
is written for, it may fail or give wrong results.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import BitsAndBytesConfig

from sdk.schemas.failures import FailureReason
from sdk.schemas.lora_config import QuantizationRecipe
from sdk.schemas.wire import JsonScalar
from workers.pipelines.errors import PipelineError, first_line
from workers.pipelines.model.blueprint import blank_model, read_blueprint
from workers.pipelines.model.classifier import Classes
from workers.pipelines.model.device import DTYPES, Device, DtypeName

#: The allowed error of products and gradients, as a share of their norm. Quantised inputs make it about 0.01.
_ALLOWED = 0.05
_TOKENS = 8
_LEVELS = 127.0


def eight_bit_modules(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield (full name, module) of the linear modules in 8 bits."""
    from bitsandbytes.nn import Linear8bitLt

    for name, module in model.named_modules():
        if isinstance(module, Linear8bitLt):
            yield name, module


def scales_of(module: Any) -> Any:
    """Return the scale of each row, (out,)."""
    # The first pass moves the scales from the weight to the module's state.
    return module.state.SCB if getattr(module.weight, "SCB", None) is None else module.weight.SCB


def wide_weight(module: Any, dtype: torch.dtype) -> Any:
    """Return the weight with which a module in 8 bits computes, (out, in)."""
    return (module.weight.data.float() * (scales_of(module).float() / _LEVELS)[:, None]).to(dtype)


def keep_scales(model: Any) -> None:
    """Make modules keep their scales if their weight is moved to a device after the first pass, as PEFT does for DoRA.

    bitsandbytes would take the scales from the weight again, which no longer has any.
    """
    for _, module in eight_bit_modules(model):
        module.register_forward_pre_hook(_with_scales)


def _with_scales(module: Any, _given: Any) -> None:
    if module.weight.CB is not None and module.weight.SCB is None:
        module.weight.SCB = module.state.SCB


def require_gradients(model: Any, dtype: torch.dtype) -> None:
    """Check products and gradients of a module of each shape against its weights. Raises PipelineError ("base") if they
    differ.
    """
    seen: set[tuple[int, int]] = set()
    for name, module in eight_bit_modules(model):
        shape = (module.out_features, module.in_features)
        if shape in seen:
            continue
        seen.add(shape)
        try:
            errors = _errors(module, dtype)
        except (RuntimeError, NotImplementedError, AttributeError) as error:
            raise _unable(name, first_line(error)) from error
        for what, far in errors.items():
            if not far <= _ALLOWED:
                raise _unable(name, f"{what} are {far:.0%} from those of its weights")


def _errors(module: Any, dtype: torch.dtype) -> dict[str, float]:
    weight, device, was = wide_weight(module, torch.float32), module.weight.device, module.training
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(_TOKENS, module.in_features, generator=generator).to(device, dtype).requires_grad_()
    dy = torch.randn(_TOKENS, module.out_features, generator=generator).to(device, dtype)
    bias = 0 if module.bias is None else module.bias.float()
    expected = x.detach().float() @ weight.T + bias
    found: dict[str, float] = {}
    try:
        for training in (False, True):
            y = module.train(training)(x)
            found[f"products in {'training' if training else 'evaluation'}"] = _far(y, expected)
        y.backward(dy)
        found["gradients"] = 1.0 if x.grad is None else _far(x.grad, dy.float() @ weight)
    finally:
        module.train(was)
    return found


def _far(found: Any, expected: Any) -> float:
    return float((found.detach().float() - expected).norm() / expected.norm())


def _unable(name: str, said: str) -> PipelineError:
    return PipelineError(
        FailureReason.BASE,
        f"bitsandbytes can't compute in 8 bits on this processor ({name}: {said}); choose quant_type nf4, the method lora, or a worker"
        " with a CUDA GPU.",
    )


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
