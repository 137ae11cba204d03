"""From a base's folder to a model: in native precision, or quantised to 4 or 8 bits for QLoRA."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers.utils import logging as transformers_logging

from sdk.lora.memory import widened_bytes
from sdk.schemas.failures import FailureReason
from sdk.schemas.lora_config import QuantizationRecipe
from workers.pipelines.errors import PipelineError, named
from workers.pipelines.model.blueprint import maker_of, read_blueprint, read_config, read_packing
from workers.pipelines.model.classifier import Classes, configure, is_in_head, start_head
from workers.pipelines.model.device import DTYPES, Device, DtypeName, dtype_name
from workers.pipelines.model.kept_weights import kept_weights
from workers.pipelines.model.packed import (
    is_in_four_bits,
    is_packed,
    keep_scales,
    packed_modules,
    packing_config,
    quantised_names,
    require_gradients,
    widen,
)
from workers.pipelines.model.precision import Share, cast, described, shares_of

#: On a CPU the 4-bit weights are also kept in 16 bits if that takes at most this share of the available memory.
_WIDE_SHARE = 0.25


@dataclass(frozen=True)
class LoadedBase:
    """A base in memory, frozen."""

    model: Any
    #: dtype of the weights that are not quantised, and of the computation.
    dtype: DtypeName
    #: None in native precision.
    quantization: QuantizationRecipe | None
    #: "wide": the quantised values are held in 16 bits, so that no pass has to unpack them.
    held: Literal["native", "packed", "wide"]
    #: Which parameters are in which precision, before widening.
    shares: Mapping[str, Share]
    #: What happened to the weights kept on disk, in words; empty if they are not involved.
    origin: str = ""

    @property
    def said(self) -> str:
        """How it is held, and where it comes from, in words."""
        return f"{described(self.shares)}{self.origin and f', {self.origin}'}"

    @property
    def parameters(self) -> int:
        """The number of parameters."""
        return sum(share.parameters for share in self.shares.values())


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
    """Load a base, frozen and in evaluation mode; with `classes` under a fresh classification head in float32.

    `dtype` overrides the stored one in native precision. `held` says how quantised weights are held on a CPU, which
    affects the last digits of each product; None: wide, if memory allows. With `quantization` the linear modules are in
    4 bits with one scale per 64 weights (QLoRA, arXiv:2305.14314, section 3) and the rest is in the compute dtype,
    except what transformers keeps in float32. A base stored in 4 bits is loaded as it is stored, whatever is requested.
    `kept` is the folder in which weights of this base in 4 bits are kept between attempts; those in 8 bits, and those
    of a classifier, are always made again. Also raises PipelineError ("base") if this processor can't compute in 8
    bits.
    """
    # Progress goes by the callback.
    transformers_logging.disable_progress_bar()
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
        # The other tensors next to packed weights are loaded as they are stored, whatever is requested.
        cast(model, DTYPES[resolved], but=lambda name: is_in_head(name, head))
    shares = shares_of(model)
    states = [module.weight.quant_state for _, module in packed_modules(model) if is_in_four_bits(module)]
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
            # From the weights themselves.
            **(
                {"type": states[0].quant_type, "double_quant": states[0].nested, "block_size": states[0].blocksize}
                if states
                else {}
            ),
        }
    )
    return LoadedBase(model, resolved, recipe, held, shares, "" if entry is None else entry.said)


def _skipped(model: Any, head: Sequence[str]) -> list[str]:
    """Return the modules of a head, and the linear ones that are not packed, by their last part unless a packed one has
    that too.
    """
    linear = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and not is_in_head(name, head)
    }
    packed = {name.rpartition(".")[2] for name, module in linear.items() if is_packed(module)}
    ends = {name: name.rpartition(".")[2] for name, module in linear.items() if not is_packed(module)}
    return sorted({name if end in packed else end for name, end in ends.items()} | set(head))


def load_written(folder: Path, device: Device, classes: Classes | None) -> Any:
    """Load a complete model from a folder, including heads, in evaluation mode. Raises PipelineError ("base").

    A tensor that is missing in its files, or has another shape, is an error.
    """
    # Progress goes by the callback.
    transformers_logging.disable_progress_bar()
    config = read_config(folder)
    wrong = (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError)
    with named(FailureReason.BASE, "its weights can't be loaded ({first}).", *wrong):
        model, loaded = maker_of(config, classes).from_pretrained(
            folder,
            config=config,
            dtype=DTYPES[native_dtype(folder, device)],
            device_map={"": device.torch_device},
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    odd = sorted({*loaded["missing_keys"], *(name for name, *_ in loaded["mismatched_keys"])})
    if odd:
        raise PipelineError(FailureReason.BASE, f"it lacks {len(odd)} of its tensors (first: {odd[0]}).")
    return _frozen(model)


def native_dtype(base: Path, device: Device) -> DtypeName:
    """Return the stored dtype of a base, or the nearest one in which the device computes."""
    return _computable(dtype_name(read_config(base).dtype), device)


def dtype_to_be(base: Path, recipe: QuantizationRecipe | None, device: Device) -> DtypeName:
    """Return the default dtype for loading a base: for all of it, or for what a recipe leaves unquantised."""
    return native_dtype(base, device) if recipe is None else _computable(recipe.compute_dtype, device)


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
    wrong = (OSError, ValueError, KeyError, TypeError, ImportError, RecursionError)
    quiet = missing_weights_silenced() if classes is not None else contextlib.nullcontext()
    with quiet, named(FailureReason.BASE, "The base's weights can't be loaded ({first}); check its folder.", *wrong):
        try:
            model, loaded = maker_of(config, classes).from_pretrained(
                base,
                config=config,
                quantization_config=quantization,
                dtype=DTYPES[dtype],
                device_map={"": device.torch_device},
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                # A base may have another task's head.
                ignore_mismatched_sizes=classes is not None,
                output_loading_info=True,
            )
        except RuntimeError as error:
            # Others are of the machine, such as memory that ran out.
            if "ignore_mismatched_sizes" in str(error):
                raise ValueError("they have other shapes than its config says") from error
            raise
    if classes is not None:
        mismatched = [name for name, *_ in loaded["mismatched_keys"]]
        start_head(model, head, classes, [*loaded["missing_keys"], *mismatched])
    elif missing := sorted(loaded["missing_keys"]):
        # The library would go on with random numbers in their place.
        raise PipelineError(
            FailureReason.BASE,
            f"The base's weights lack {len(missing)} tensors of the model that its config describes (first: {missing[0]}); "
            "download the base again.",
        )
    return model


def _frozen(model: Any) -> Any:
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for module in (each for _, each in packed_modules(model) if is_in_four_bits(each)):
        # On CPUs with AVX512-BF16 a forward pass in evaluation mode repacks the weight in place, after which the
        # backward pass stops there, and nothing is learnt.
        module.support_avx512bf16_for_cpu = False
    return model.eval()


def _computable(dtype: DtypeName, device: Device) -> DtypeName:
    """Return `dtype`, or the device's substitute for it."""
    if dtype == "float32" or dtype == device.compute_dtype:
        return dtype
    # A GPU with bfloat16 multiplies float16 too, but trainings overflow its narrow range.
    return device.compute_dtype


def _bitsandbytes_version() -> str:
    from importlib.metadata import version

    return version("bitsandbytes")


@contextlib.contextmanager
def deprecations_silenced() -> Iterator[None]:
    """Silence two deprecations that the libraries raise about each other, and no others.

    transformers renames gradient checkpointing to activation checkpointing; PEFT and older transformers know only the
    first name.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`(is_)?gradient_checkpointing(_kwargs)?` is deprecated", FutureWarning)
        yield


@contextlib.contextmanager
def missing_weights_silenced() -> Iterator[None]:
    """Silence the table of weights missing in a base's files, which is checked here."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)
