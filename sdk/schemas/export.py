"""What is asked of the program that writes an adapter or a model in another form, and what it says of it."""

from __future__ import annotations

from typing import Any, Literal

from sdk.schemas.wire import Wire

#: Types of numbers that a GGUF file is written in.
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
    #: None: 32 bits for an adapter, the model's own for a model.
    dtype: GgufDtype | None
    #: A GGUF file with the same tokenizer; of a model alone.
    tokenizer_from: str | None = None
    #: What the file calls what is in it.
    name: str
    #: What it calls the base.
    base_name: str | None = None


class ExportReport(Wire):
    """What was written, and read back."""

    #: `general.architecture`.
    architecture: str
    dtype: GgufDtype
    tensors: int
    size_bytes: int
    #: The kind of pre-tokenizer, of a model.
    pre_tokenizer: str | None = None
    #: The largest error of a tensor as it was read back, as a share of what rounding to the type allows.
    rounding: float
    #: What whoever uses the file has to know, in sentences.
    notes: list[str] = []
