"""The tensors of weight files as torch's."""

from __future__ import annotations

from typing import Any

import torch

from sdk.lora.tensors import Tensor

#: Types by the format's names and torch's.
TORCH_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
FORMAT_TYPES = {dtype: name for name, dtype in TORCH_TYPES.items()}


def is_aligned(tensor: Tensor) -> bool:
    """Whether a tensor begins where torch can view its type: the library aligns every tensor, other writers may not."""
    return bool(tensor.begin % TORCH_TYPES[tensor.dtype].itemsize == 0)


def as_torch(tensor: Tensor) -> Any:
    """Return a tensor as a view of the mapped file; as a copy if it isn't aligned."""
    dtype = TORCH_TYPES[tensor.dtype]
    if tensor.begin == tensor.end:
        return torch.empty(tensor.shape, dtype=dtype)
    if not is_aligned(tensor):
        return torch.frombuffer(bytearray(tensor.bytes()), dtype=dtype).view(tensor.shape)
    count = (tensor.end - tensor.begin) // dtype.itemsize
    return torch.frombuffer(tensor.file.data, dtype=dtype, offset=tensor.begin, count=count).view(tensor.shape)
