"""The numbers of a plain merge, some rows at a time: W' = W + s·B·A in float32, as PEFT adds it, before it is rounded once.

It needs numpy alone: importing torch takes longer than the whole merge of a small model. Its sums are torch's to the last digit
for products of these sizes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from sdk.lora.tensors import NUMPY_TYPES, unpacked
from sdk.schemas.failures import FailureReason
from workers.pipelines.errors import PipelineError
from workers.pipelines.merging.changes import Changes, Factor, low_rank
from workers.pipelines.merging.plan import MergedTensor
from workers.pipelines.merging.stored_base import StoredBase
from workers.pipelines.merging.threads import ScratchMemory

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

#: How many numbers are in memory at a time: with fewer, two threads wait for each other during the Python code between
#: products.
_BLOCK_NUMBERS = 2**18
#: Products of so many rows at least, of a multiple of as many columns, and of this rank at most are summed as torch sums them.
LEAST_ROWS, MOST_RANK = 16, 128
#: The least number that is rounded to an infinity, by the type of a file; a float32 that is no infinity is none as it is.
_TOO_LARGE = {
    "BF16": float(np.uint32(0x7F7F8000).view("<f4")),
    "F16": 65520.0,
    "F32": float("inf"),
    "F64": float("inf"),
}


class PlainBlocks:
    """Reads a base and an adapter, and gives the rows of what is written."""

    def __init__(self, base: StoredBase, changes: Changes) -> None:
        self._base, self._changes = base, changes
        self._matrices: dict[Factor, Array] = {}
        self._held = ""
        self._room = ScratchMemory()

    def ranges(self, written: MergedTensor) -> Iterator[tuple[int, int]]:
        """Yield the rows of a plane that are computed at a time, as (begin, end)."""
        return ranges_of(written)

    def bytes_of(self, written: MergedTensor, plane: int, begin: int, end: int) -> memoryview:
        """Return the rows [begin, end) as they are written; valid until the next call.

        Raises PipelineError ("verification") for NaN and infinities.
        """
        if self._held != written.name:
            # The matrices of the previous tensor are useless for this one.
            self._held = written.name
            self._matrices.clear()
        (window,) = written.windows
        (change,) = low_rank(window.changes)
        total = self._base_rows(written, begin, end)
        delta = self._room.of("delta", total.shape, "<f4")
        np.matmul(self._matrix(change.b)[begin:end], self._matrix(change.a), out=delta)
        # Two roundings, as in PEFT.
        delta *= np.float32(change.scale)
        total += delta
        most = _TOO_LARGE[written.dtype]
        # NaN is neither above nor below.
        if not (float(total.max()) < most and float(total.min()) > -most):
            raise not_finite(written)
        return self._rounded(total, written.dtype).reshape(-1).view("u1").data

    def _base_rows(self, written: MergedTensor, begin: int, end: int) -> Array:
        """Return a copy of the base's rows in the type of the sum."""
        source = written.source or ""
        dtype = self._base.tensors[source].dtype
        numbers = np.frombuffer(self._base.bytes_of(source), NUMPY_TYPES[dtype])
        rows = numbers.reshape(written.grid.rows, written.grid.columns)[begin:end]
        if dtype != "BF16":
            summed: Array = self._room.of("sum", rows.shape, "<f8" if dtype == "F64" else "<f4")
            summed[...] = rows
            return summed
        bits: Array = self._room.of("sum", rows.shape, "<u4")
        # The bits of bfloat16 are the upper half of a float32's.
        bits[...] = rows
        bits <<= np.uint32(16)
        return bits.view("<f4")

    def _rounded(self, total: Array, dtype: str) -> Array:
        """Return finite numbers in a file's type, rounded to nearest, ties to even. The given ones are used up."""
        if dtype != "BF16":
            narrow: Array = total.astype(NUMPY_TYPES[dtype], copy=False)
            return narrow
        bits = total.view("<u4")
        odd = self._room.of("odd", bits.shape, "<u4")
        np.right_shift(bits, np.uint32(16), out=odd)
        odd &= np.uint32(1)
        odd += np.uint32(0x7FFF)
        bits += odd
        found: Array = self._room.of("rounded", bits.shape, "<u2")
        np.right_shift(bits, np.uint32(16), out=found, casting="unsafe")
        return found

    def _matrix(self, factor: Factor) -> Array:
        """Return a matrix of the adapter in float32."""
        if factor not in self._matrices:
            tensor = self._changes.file.tensors[factor.key]
            numbers = unpacked(np.frombuffer(tensor.bytes(), NUMPY_TYPES[tensor.dtype]), tensor.dtype)
            self._matrices[factor] = numbers.astype("<f4").reshape(tensor.shape)
        return self._matrices[factor]


def ranges_of(written: MergedTensor) -> Iterator[tuple[int, int]]:
    """Yield the rows of a plane of a tensor that are computed at a time, as (begin, end)."""
    rows, step = written.grid.rows, max(LEAST_ROWS, _BLOCK_NUMBERS // max(1, written.grid.columns))
    begin = 0
    while begin < rows:
        # A few rows would be multiplied by another routine, which sums in another order than PEFT's whole product.
        end = rows if rows - begin < step + LEAST_ROWS else begin + step
        yield begin, end
        begin = end


def not_finite(written: MergedTensor) -> PipelineError:
    """Return the error for a tensor that can't be written."""
    return PipelineError(
        FailureReason.VERIFICATION,
        f"The merged {written.name} holds NaN or an infinity: {written.dtype} is too narrow for it, or the adapter"
        " is broken; merge with --dtype float32, or train again.",
    )
