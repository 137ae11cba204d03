"""The numbers of safetensors files in numpy, and in the types of a GGUF file. bfloat16, which numpy lacks, is held as its bits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from sdk.errors import InvalidInput
from sdk.lora.tensors import Columns
from sdk.schemas.export import GgufDtype

#: How many numbers are held at a time.
BLOCK_NUMBERS = 2**22
ITEM_BYTES: dict[GgufDtype, int] = {"f32": 4, "f16": 2, "bf16": 2}
#: Bits of the significand, including the leading one, and the least exponent, as `math.frexp` counts both.
_SIGNIFICANT_BITS: dict[GgufDtype, tuple[int, int]] = {"f32": (24, -125), "f16": (11, -13), "bf16": (8, -125)}
#: The GGUF type that holds each safetensors type without rounding.
SAME_DTYPE: dict[str, GgufDtype] = {"F32": "f32", "F16": "f16", "BF16": "bf16"}

Floats = npt.NDArray[Any]


def row_blocks(rows: int, columns: int) -> Iterator[slice]:
    """Yield slices of rows with some millions of numbers each."""
    step = max(1, BLOCK_NUMBERS // max(1, columns))
    for start in range(0, rows, step):
        yield slice(start, min(rows, start + step))


def rounded(values: Floats, dtype: GgufDtype, *, called: str) -> Floats:
    """Return numbers rounded to the nearest ones of a GGUF type; bf16 as uint16.

    Raises InvalidInput that names the tensor if a finite number is too large for the type.
    """
    written: Floats
    with np.errstate(over="ignore"):
        if dtype == "bf16":
            bits = _single_bits(values)
            # To the nearest, ties to even.
            written = ((bits + (((bits >> 16) & 1) + 0x7FFF)) >> 16).astype("<u2")
        else:
            written = np.ascontiguousarray(values, dtype="<f2" if dtype == "f16" else "<f4")
    if not np.isfinite(values).all():
        raise InvalidInput(f"{called} holds NaN or an infinity; train it again", param="target")
    if not np.isfinite(exact(written)).all():
        raise InvalidInput(f"{called} holds numbers too large for {dtype}; export with --dtype f32", param="dtype")
    return written


def _single_bits(values: Floats) -> npt.NDArray[Any]:
    """Return the bits of float32; float64 is first rounded to odd, so that rounding to fewer bits gives the same as
    from float64.

    Rounding to nearest twice would move a number just beside the middle of two to the middle, and then to the wrong side.
    """
    bits = np.ascontiguousarray(values, dtype="<f4").view("<u4")
    if values.dtype != np.float64:
        return bits
    single = bits.view("<f4").astype("<f8")
    towards_zero = bits - (np.abs(single) > np.abs(values)).astype("<u4")
    return np.where(single == values, bits, towards_zero | np.uint32(1))


def exact(written: Floats) -> Floats:
    """Return the values of written numbers (float16, float32, or bfloat16 as uint16) in float32."""
    return Columns(written, "BF16" if written.dtype == np.uint16 else "").widened()


def rounding_error(written: Floats, values: Floats, dtype: GgufDtype) -> float:
    """Return the largest |written − value|, as a share of half the distance between neighbouring numbers of the type.

    Computed from exponents alone, so it shares nothing with `rounded`. At most 1 if each number is the nearest one.
    Infinite if a number differs that the type could hold exactly.
    """
    if dtype == "f32" and values.dtype == np.float32:
        return 0.0 if np.array_equal(exact(written), values) else np.inf
    bits, least = _SIGNIFICANT_BITS[dtype]
    exponents = np.maximum(np.frexp(values.astype("<f8"))[1], least)
    half = np.ldexp(0.5, exponents - bits)
    errors: Floats = np.abs(exact(written).astype("<f8") - values) / half
    return float(errors.max(initial=0.0))


def neighbours(rows: int, heads: int) -> npt.NDArray[Any]:
    """Return, for each row in llama.cpp's order, the index of transformers' row that belongs there.

    In a head of d rows, transformers rotates rows i and i + d/2 together (rotate_half), llama.cpp rows 2i and 2i + 1.

    >>> neighbours(8, 2).tolist()
    [0, 2, 1, 3, 4, 6, 5, 7]
    """
    return np.arange(rows).reshape(heads, 2, -1).swapaxes(1, 2).ravel()


def halves(written: npt.NDArray[Any], heads: int) -> npt.NDArray[Any]:
    """Undo `neighbours` on the rows of a matrix, by strides: for each head first the even rows, then the odd ones."""
    size = len(written) // heads
    parts = [written[start + odd : start + size : 2] for start in range(0, len(written), size) for odd in (0, 1)]
    return np.concatenate(parts)
