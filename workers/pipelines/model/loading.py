"""A base's folder to a model: in native precision, or quantised in 4 bits, or 8, as QLoRA trains over it."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForSequenceClassification,
    BitsAndBytesConfig,
)
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging as transformers_logging

from sdk.formats.base_files import CONFIG_FILE
from sdk.lora.architectures import is_encoder, no_next_token
from sdk.lora.memory import widened_bytes
from sdk.lora.stored_quantization import StoredQuantizationError, stored_recipe
from sdk.schemas.failures import FailureReason
from sdk.schemas.training import JsonScalar, QuantizationRecipe
from workers.pipelines.errors import PipelineError
from workers.pipelines.model.classifier import Classes, configure, head_modules, is_in_head, start_head
from workers.pipelines.model.device import DTYPES, Device, DtypeName, dtype_name
from workers.pipelines.model.eight_bits import keep_scales, require_gradients, wide_weight
from workers.pipelines.model.kept_weights import kept_weights
from workers.pipelines.model.precision import Share, cast, described, shares_of
from workers.pipelines.model.references import require_self_contained

#: On a CPU the 4-bit weights are kept in 16 bit as well if that takes at most this share of the available memory.
_WIDE_SHARE = 0.25
#: Ways to compute attention that torch has itself; for others transformers may fetch code.
_OWN_ATTENTION = ("eager", "sdpa")


@dataclass(frozen=True)
class LoadedBase:
    """A base in memory, frozen."""

    model: Any
    #: dtype of the weights that are not quantised, and of the computation.
    dtype: DtypeName
    #: None in native precision.
    quantization: QuantizationRecipe | None
    #: "wide": the quantised values are held in 16 bit, so that no pass has to unpack them.
    held: Literal["native", "packed", "wide"]
    #: What of it is in which precision, before it was made wide.
    shares: Mapping[str, Share]
    #: What came of the weights that are kept on disk, in words; empty where they have no part in it.
    origin: str = ""

    @property
    def said(self) -> str:
        """What it is held as, and where it comes from, in words."""
        return f"{described(self.shares)}{self.origin and f', {self.origin}'}"

    @property
    def parameters(self) -> int:
        """How many numbers it holds."""
        return sum(share.parameters for share in self.shares.values())


@dataclass(frozen=True)
class Blueprint:
    """What a config says about a model without any weights: names of its linear modules and its size."""

    config: Any
    #: Full names without the output head.
    linear_names: list[str]
    #: The modules of a classification that are none of the base's; empty for a causal language model.
    head: list[str]
    #: Full names of parameters of (experts, …, …), which no module of their own multiplies.
    stacked_names: list[str]
    #: The linear modules that hold their weight transposed, (in, out).
    conv1d_names: frozenset[str]
    parameters: int
    #: How the base is packed, where it is stored in 4 bits.
    packing: QuantizationRecipe | None
    #: The shape of each parameter by its full name; what is tied is there once.
    shapes: Mapping[str, Sequence[int]]
    #: Whether the output head is the input embedding.
    tied: bool


def read_blueprint(base: Path, classes: Classes | None = None) -> Blueprint:
    """Build the model of a folder's config without memory for its weights, to look at its modules.

    With `classes` it is the one that tells them apart. Raises PipelineError ("base") when the folder holds no config of such a
    model, or of an encoder where it is to be causal, or one of a base that is quantised in a way over which nothing is done.
    """
    packing = read_packing(base)
    model = blank_model(base, classes)
    config = model.config
    output = model.get_output_embeddings()
    head = [] if classes is None else head_modules(model, base)
    linear = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D) and module is not output and not is_in_head(name, head)
    }
    return Blueprint(
        config=config,
        linear_names=sorted(linear),
        head=head,
        stacked_names=sorted(_stacked(model)),
        conv1d_names=frozenset(name for name, module in linear.items() if isinstance(module, Conv1D)),
        parameters=model.num_parameters(),
        packing=packing,
        shapes={name: tuple(parameter.shape) for name, parameter in model.named_parameters()},
        tied=output is not None and output.weight is model.get_input_embeddings().weight,
    )


def blank_model(base: Path, classes: Classes | None = None) -> Any:
    """Return the model of a folder's config without memory for its weights, tied as it says. Raises PipelineError ("base")."""
    config = read_config(base)
    if classes is not None:
        configure(config, classes)
    elif is_encoder(config.to_dict()):
        raise PipelineError(FailureReason.BASE, f"The base can't be used for that: {no_next_token(config.model_type)}.")
    return blank_model_of(config, classes)


def blank_model_of(config: Any, classes: Classes | None = None) -> Any:
    """Return the model of a config without memory for its weights, tied as it says. Raises PipelineError ("base")."""
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = _maker(config, classes).from_config(config, trust_remote_code=False)
    except (ValueError, KeyError, TypeError) as error:
        what = "causal language model" if classes is None else "model for sequence classification"
        raise PipelineError(
            FailureReason.BASE,
            f"No {what} is known for {getattr(config, 'model_type', 'this config')!r}"
            f" ({_first_line(error)}); choose another base.",
        ) from error
    model.tie_weights()
    return model


def _stacked(model: Any) -> Iterator[str]:
    for name, module in model.named_modules():
        if not isinstance(module, torch.nn.modules.conv._ConvNd):
            yield from (f"{name}.{own}" for own, each in module.named_parameters(recurse=False) if each.ndim == 3)


def read_packing(base: Path) -> QuantizationRecipe | None:
    """Return how a base is packed that is stored in 4 bits. Raises PipelineError ("base") for what else is quantised."""
    require_self_contained(base)
    try:
        config = json.loads((base / CONFIG_FILE).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise _unreadable(error) from error
    with stored_quantization_named():
        return stored_recipe(config) and stored_recipe(config, _tensor_names(base))


def _tensor_names(base: Path) -> Iterator[str]:
    for path in sorted(base.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            yield from file.keys()


@contextlib.contextmanager
def stored_quantization_named() -> Iterator[None]:
    """Say in a PipelineError what can't be done over a base, for how it is quantised."""
    try:
        yield
    except StoredQuantizationError as error:
        raise PipelineError(
            FailureReason.BASE if error.param == "base" else FailureReason.SPEC, f"The base {error}."
        ) from error


def held_as(recipe: QuantizationRecipe | None) -> dict[str, JsonScalar] | None:
    """Return what of a recipe moves what a base predicts, but for the names of modules that were left out."""
    if recipe is None:
        return None
    return {
        "type": recipe.type,
        "double_quant": recipe.double_quant,
        "block_size": recipe.block_size,
        "compute_dtype": recipe.compute_dtype,
        "skipped": len(recipe.skipped_modules),
    }


def load_base(
    base: Path,
    device: Device,
    *,
    quantization: QuantizationRecipe | None,
    dtype: DtypeName | None = None,
    held: Literal["packed", "wide"] | None = None,
    classes: Classes | None = None,
    kept: Path | None = None,
) -> LoadedBase:
    """Load a base, frozen and in evaluation mode; with `classes` under a fresh head that tells them apart, in float32.

    `dtype` overrides the stored one in native precision. `held` says how quantised weights are held on a CPU, which moves
    the last digits of each product; None: wide, where that leaves room. Under `quantization` the linear modules are in 4 bits with
    one scale per 64 weights (QLoRA, arXiv:2305.14314, section 3) and the rest is in the compute dtype, but what transformers keeps
    in float32. A base that is stored
    in 4 bits is loaded as it is stored, whatever is asked for. `kept` is the folder that weights of this base in 4 bits are kept
    in between attempts; those in 8 bits, and those below a head of classes, are always made anew. Raises PipelineError ("base") also where
    this processor can't compute in 8 bits.
    """
    silence()
    packing = read_packing(base)
    quantization = packing or quantization
    if quantization is None:
        resolved = dtype or dtype_to_be(base, None, device)
        model = _from_pretrained(base, device, resolved, None, classes)
        return LoadedBase(_frozen(model), resolved, None, "native", shares_of(model))
    resolved = dtype or dtype_to_be(base, quantization, device)
    head = [] if classes is None else read_blueprint(base, classes).head
    config = packing_config(quantization, resolved, head)
    entry = None
    if kept is not None and packing is None and classes is None and quantization.type != "int8":
        entry = kept_weights(kept, config, quantised_names(base, quantization, classes), resolved, device)
    model = entry and entry.read(base, lambda view: _from_pretrained(view, device, resolved, None, None))
    if model is None:
        model = _from_pretrained(base, device, resolved, config if packing is None else None, classes)
        if entry is not None:
            entry.write(model)
    model = _frozen(model)
    if packing is not None:
        # What lies beside packed weights is loaded as it is stored, whatever is asked for.
        cast(model, DTYPES[resolved], but=lambda name: is_in_head(name, head))
    shares = shares_of(model)
    states = [module.weight.quant_state for _, module in packed_modules(model) if _is_in_four_bits(module)]
    numbers = sum(module.in_features * module.out_features for _, module in packed_modules(model))
    skipped = _skipped(model, head)
    if held is None:
        held = (
            "wide"
            if widened_bytes(numbers, width=DTYPES[resolved].itemsize) <= _WIDE_SHARE * device.available_memory_bytes()
            else "packed"
        )
    if device.kind != "cpu":
        held = "packed"
    if held == "wide":
        widen(model, DTYPES[resolved])
    keep_scales(model)
    require_gradients(model, DTYPES[resolved])
    recipe = quantization.model_copy(
        update={
            "compute_dtype": resolved,
            "skipped_modules": skipped,
            "library_version": _bitsandbytes_version(),
            # What the weights say themselves.
            **(
                {"type": states[0].quant_type, "double_quant": states[0].nested, "block_size": states[0].blocksize}
                if states
                else {}
            ),
        }
    )
    return LoadedBase(model, resolved, recipe, held, shares, "" if entry is None else entry.said)


def packing_config(quantization: QuantizationRecipe, dtype: DtypeName, head: Sequence[str]) -> Any:
    """Return the configuration by which transformers has a model in 4 bits, or 8, but for the modules of a head."""
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
    """Return the full names of the modules that a training under a recipe has quantised. No weights are loaded."""
    from transformers.quantizers import AutoHfQuantizer

    head = [] if classes is None else read_blueprint(base, classes).head
    model = blank_model(base, classes)
    config = packing_config(quantization, quantization.compute_dtype, head)
    quantizer = AutoHfQuantizer.from_config(config, pre_quantized=False)
    quantizer.preprocess_model(model=model, device_map={"": "cpu"}, dtype=DTYPES[quantization.compute_dtype])
    return [name for name, _ in packed_modules(model)]


def _skipped(model: Any, head: Sequence[str]) -> list[str]:
    """Return the modules of a head, and the linear ones that are not packed, by their last part where no packed one has that too."""
    linear = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and not is_in_head(name, head)
    }
    packed = {name.rpartition(".")[2] for name, module in linear.items() if _is_packed(module)}
    ends = {name: name.rpartition(".")[2] for name, module in linear.items() if not _is_packed(module)}
    return sorted({name if end in packed else end for name, end in ends.items()} | set(head))


def load_written(folder: Path, device: Device, classes: Classes | None) -> Any:
    """Load a whole model as it lies in a folder, heads and all, in evaluation mode. Raises PipelineError ("base").

    A tensor that its files lack, or that has another shape, is an error.
    """
    silence()
    config = read_config(folder)
    try:
        model, loaded = _maker(config, classes).from_pretrained(
            folder,
            config=config,
            dtype=DTYPES[native_dtype(folder, device)],
            device_map={"": device.torch_device},
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError) as error:
        raise PipelineError(FailureReason.BASE, f"its weights can't be loaded ({_first_line(error)}).") from error
    odd = sorted({*loaded["missing_keys"], *(name for name, *_ in loaded["mismatched_keys"])})
    if odd:
        raise PipelineError(FailureReason.BASE, f"it lacks {len(odd)} of its tensors (first: {odd[0]}).")
    return _frozen(model)


def default_recipe(
    device: Device, quant_type: Literal["nf4", "fp4", "int8"] = "nf4", *, double_quant: bool = True
) -> QuantizationRecipe:
    """Return 4 bits, by default NF4 with double quantisation, or 8 with a scale a row, and the dtype that the device computes in."""
    if quant_type == "int8":
        return QuantizationRecipe(type=quant_type, compute_dtype=device.compute_dtype)
    return QuantizationRecipe(type=quant_type, double_quant=double_quant, compute_dtype=device.compute_dtype)


def native_dtype(base: Path, device: Device) -> DtypeName:
    """Return the stored dtype of a base, or the nearest one that the device computes in."""
    return _computable(dtype_name(read_config(base).dtype), device)


def dtype_to_be(base: Path, recipe: QuantizationRecipe | None, device: Device) -> DtypeName:
    """Return the dtype that a base is loaded in, where nobody asks for another: of all of it, or of what a recipe leaves wide."""
    return native_dtype(base, device) if recipe is None else _computable(recipe.compute_dtype, device)


def packed_modules(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield (full name, module) of the linear modules in 4 bits, or 8."""
    for name, module in model.named_modules():
        if _is_packed(module):
            yield name, module


def widen(model: Any, dtype: torch.dtype) -> None:
    """Replace each packed linear module by a plain one that holds the same, dequantised values in `dtype`.

    `Linear4bit` unpacks its weight in every forward and every backward pass; the products are the same numbers. `Linear8bitLt` does so
    in training, and rounds its inputs to 8 bits otherwise, which a plain module does not.
    """
    from bitsandbytes.functional import dequantize_4bit

    for name, module in list(packed_modules(model)):
        if _is_in_four_bits(module):
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
    # The model is a plain one now, and libraries that ask should be told so.
    for attribute in ("is_loaded_in_4bit", "is_loaded_in_8bit", "is_quantized", "hf_quantizer", "quantization_method"):
        if attribute in vars(model):
            delattr(model, attribute)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    # Nor are there packed weights to be written as they were read.
    if conversions := getattr(model, "_weight_conversions", None):
        model._weight_conversions = [each for each in conversions if not _unpacks(each)]


def _unpacks(conversion: Any) -> bool:
    from transformers.integrations.bitsandbytes import Bnb4bitDeserialize

    return any(isinstance(step, Bnb4bitDeserialize) for step in getattr(conversion, "operations", ()))


def silence() -> None:
    """Keep progress bars of the libraries off the terminal; progress goes by the callback."""
    import datasets

    transformers_logging.disable_progress_bar()
    datasets.disable_progress_bars()


@contextlib.contextmanager
def deprecations_silenced() -> Iterator[None]:
    """Silence two deprecations that the libraries raise about each other, and no others.

    transformers renames gradient checkpointing to activation checkpointing; PEFT, TRL and older transformers know
    only the first name.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`(is_)?gradient_checkpointing(_kwargs)?` is deprecated", FutureWarning)
        yield


def _from_pretrained(base: Path, device: Device, dtype: DtypeName, quantization: Any, classes: Classes | None) -> Any:
    config = read_config(base)
    head: list[str] = []
    if classes is not None:
        configure(config, classes)
        head = read_blueprint(base, classes).head
    if quantization is None and (stored := getattr(config, "quantization_config", None)):
        config.quantization_config = {**stored, "bnb_4bit_compute_dtype": dtype}
        if head:
            skipped = stored.get("llm_int8_skip_modules") or []
            config.quantization_config["llm_int8_skip_modules"] = sorted({*skipped, *head})
    try:
        with _missing_weights_silenced() if classes is not None else contextlib.nullcontext():
            model, loaded = _maker(config, classes).from_pretrained(
                base,
                config=config,
                quantization_config=quantization,
                dtype=DTYPES[dtype],
                device_map={"": device.torch_device},
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                # A base may have the head of another task.
                ignore_mismatched_sizes=classes is not None,
                output_loading_info=True,
            )
    except (OSError, ValueError, KeyError, TypeError, ImportError, RecursionError) as error:
        raise PipelineError(
            FailureReason.BASE, f"The base's weights can't be loaded ({_first_line(error)}); check its folder."
        ) from error
    if classes is not None:
        mismatched = [name for name, *_ in loaded["mismatched_keys"]]
        start_head(model, head, classes, [*loaded["missing_keys"], *mismatched])
    return model


@contextlib.contextmanager
def _missing_weights_silenced() -> Iterator[None]:
    """Silence the table of weights that a base's files lack, which is looked at here."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)


def _maker(config: Any, classes: Classes | None) -> Any:
    """Return what makes a model of a config: one that tells classes apart, a causal one, or one of several parts that holds one."""
    if classes is not None:
        return AutoModelForSequenceClassification
    kind = type(config)
    several = kind not in AutoModelForCausalLM._model_mapping and kind in AutoModelForImageTextToText._model_mapping
    return AutoModelForImageTextToText if several else AutoModelForCausalLM


def _frozen(model: Any) -> Any:
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for module in (each for _, each in packed_modules(model) if _is_in_four_bits(each)):
        # On CPUs with AVX512-BF16 a forward pass in evaluation mode repacks the weight in place, after which the
        # backward pass stops there and nothing is learnt.
        module.support_avx512bf16_for_cpu = False
    return model.eval()


def _is_packed(module: Any) -> bool:
    from bitsandbytes.nn import Linear4bit, Linear8bitLt

    return isinstance(module, Linear4bit | Linear8bitLt)


def _is_in_four_bits(module: Any) -> bool:
    from bitsandbytes.nn import Linear4bit

    return isinstance(module, Linear4bit)


def _computable(dtype: DtypeName, device: Device) -> DtypeName:
    """Return `dtype`, or what the device has in its place."""
    if dtype == "float32" or dtype == device.compute_dtype:
        return dtype
    # A GPU with bfloat16 multiplies float16 too; its narrow range is what trainings overflow.
    return device.compute_dtype


def read_config(base: Path) -> Any:
    """Return the config of a base, with an implementation of attention that is chosen here and not by the base."""
    require_self_contained(base)
    try:
        config = AutoConfig.from_pretrained(base, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise _unreadable(error) from error
    # None lets the library choose what the model supports, also in the parts of a config.
    said = config._attn_implementation
    config._attn_implementation = said if said in _OWN_ATTENTION else None
    if hasattr(config, "_experts_implementation"):
        config._experts_implementation = None
    return config


def _unreadable(error: Exception) -> PipelineError:
    return PipelineError(
        FailureReason.BASE, f"The base's {CONFIG_FILE} can't be read ({_first_line(error)}); check its folder."
    )


def _bitsandbytes_version() -> str:
    from importlib.metadata import version

    return version("bitsandbytes")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
