"""The names of precisions in specs and reports, and in weight files. Nothing is imported for them."""

from __future__ import annotations

from typing import Any, Literal

DtypeName = Literal["bfloat16", "float16", "float32"]

#: Names in specs and reports to those in weight files.
FILE_DTYPES: dict[str, str] = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}


def dtype_name(dtype: Any) -> DtypeName:
    """Return "bfloat16", "float16" or "float32" for a torch dtype, its name, or None (float32)."""
    name = str(dtype).removeprefix("torch.")
    if name == "bfloat16":
        return "bfloat16"
    return "float16" if name == "float16" else "float32"
