"""The request to the program that exports an adapter or a model, and its answer."""

from __future__ import annotations

from typing import Any, Literal

from sdk.schemas.lora_config import QuantizationRecipe
from sdk.schemas.wire import Wire

#: The types of numbers that an export can be written in.
GgufDtype = Literal["f32", "f16", "bf16"]


class ExportRequest(Wire):
    """One export to GGUF."""

    kind: Literal["adapter", "model"]
    #: The folder of an adapter, or of a whole model.
    folder: str
    #: The base's `config.json`, or the model's own.
    config: dict[str, Any]
    #: The new file.
    out: str
    #: None: f32 for an adapter, the model's own type for a model.
    dtype: GgufDtype | None
    #: A GGUF file with the same tokenizer; only for a model.
    tokenizer_from: str | None = None
    #: The name that the file gives its content.
    name: str
    #: The name that it gives the base.
    base_name: str | None = None


class ExportReport(Wire):
    """What was written, and read back."""

    #: `general.architecture`.
    architecture: str
    dtype: GgufDtype
    tensors: int
    size_bytes: int
    #: For a model: llama.cpp's name for how texts are split.
    pre_tokenizer: str | None = None
    #: The largest error found when reading back, as a share of what rounding to the type allows.
    rounding: float
    #: What users of the file have to know, in sentences.
    notes: list[str] = []


class PlainLoraRequest(Wire):
    """One adapter as a plain LoRA: one rank and one α for all modules."""

    kind: Literal["lora"] = "lora"
    #: The adapter's folder.
    folder: str
    #: The new folder.
    out: str
    #: The rank of each module; None: the largest that any has.
    rank: int | None
    #: None: the adapter's own type if no number changes, otherwise f32.
    dtype: GgufDtype | None
    #: The base's folder; only a DoRA needs it.
    base: str | None = None
    #: How the base was quantised in training, if it was.
    quantization: QuantizationRecipe | None = None


class PlainLoraReport(Wire):
    """A plain LoRA that was written, and read back."""

    rank: int
    alpha: float
    dtype: GgufDtype
    modules: int
    size_bytes: int
    #: How many modules have less than all of their ΔW.
    cut: int
    #: ‖ΔW_r‖²/‖ΔW‖² over all modules, and by module if something was cut.
    kept_energy: float
    kept_by_module: dict[str, float] = {}
    #: How far ‖ΔW − ΔW_r‖ is from what the kept energy implies, as a share of ‖ΔW‖, in the module where this is largest.
    error: float
    #: What users of the adapter have to know, in sentences.
    notes: list[str] = []
