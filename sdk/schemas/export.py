"""What the program that exports an adapter or a model is asked, and what it answers."""

from __future__ import annotations

from typing import Any, Literal

from sdk.schemas.wire import Wire

#: The types of numbers that a GGUF file can be written in.
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
    #: Of a model: llama.cpp's name for how texts are split.
    pre_tokenizer: str | None = None
    #: The largest error that was read back, as a share of what rounding to the type allows.
    rounding: float
    #: What users of the file have to know, in sentences.
    notes: list[str] = []
