"""The arithmetic of a merge, written a second time for the read-back to check what was written.

Nothing here shares code with the writer or with what `sdk.lora.tensors` makes of bytes, on purpose: numbers are decoded
from their bits, products are computed in float64, and 4-bit codes are looked up by their definition.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from workers.pipelines.merging.changes import Changes, Factor, LowRank
from workers.pipelines.merging.plan import MergedTensor, Window
from workers.pipelines.merging.stored_base import StoredBase

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

FORMATS = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "U8": "u1", "I8": "i1", "I64": "<i8", "I32": "<i4"}
#: How many numbers are held at a time.
_MATRICES = 8
#: Bits of a significand, including the leading one.
_BITS = {"F64": 53, "F32": 24, "F16": 11, "BF16": 8}
#: The exponent below which numbers no longer become finer.
_LEAST = {"F64": -1022, "F32": -126, "F16": -14, "BF16": -126}


def half_step(dtype: str) -> float:
    """Return the largest relative error of rounding to a type.

    >>> half_step("BF16") == 2**-8
    True
    """
    return float(2.0 ** -_BITS[dtype])


def smallest_step(dtype: str) -> float:
    """Return the smallest distance between numbers of a type."""
    return float(2.0 ** (_LEAST[dtype] - _BITS[dtype] + 1))


def raw(files: StoredBase, name: str) -> Array:
    """Return a tensor's numbers as stored in a file, BF16 as uint16."""
    return np.frombuffer(files.bytes_of(name), dtype=_TYPES[files.tensors[name].dtype])


def decoded(values: Array, dtype: str) -> Array:
    """Return numbers in float64.

    >>> decoded(np.array([0x3F80, 0xC000], dtype="<u2"), "BF16").tolist()
    [1.0, -2.0]
    """
    wide: Array = in_float32(values, dtype).astype("<f8") if dtype == "BF16" else values.astype("<f8")
    return wide


def in_float32(values: Array, dtype: str) -> Array:
    """Return a copy of numbers in float32, which has all those of 16 bits.

    >>> in_float32(np.array([0x3F80, 0xC000], dtype="<u2"), "BF16").tolist()
    [1.0, -2.0]
    """
    if dtype == "BF16":
        # The bits of bfloat16 are the upper half of a float32's.
        wide: Array = np.multiply(values, np.uint32(1 << 16), dtype="<u4")
        return wide.view("<f4")
    narrow: Array = values.astype("<f4")
    return narrow


def rounded(values: Array, dtype: str) -> Array:
    """Round float64 once to a type, to nearest, ties to even; return float64.

    >>> rounded(np.array([1 + 2**-8, 1 + 3 * 2**-8]), "BF16").tolist()
    [1.0, 1.015625]
    """
    if dtype == "F64":
        return values
    step = step_at(values, dtype)
    nearest: Array = np.rint(values / step) * step
    return nearest


def step_at(values: Array, dtype: str) -> Array:
    """Return the distance between a type's numbers around some values."""
    _, exponents = np.frexp(values)
    steps: Array = np.ldexp(1.0, np.maximum(exponents - _BITS[dtype], _LEAST[dtype] - _BITS[dtype] + 1))
    return steps


def times(left: Array, right: Array) -> Array:
    """Return a product of matrices, or of a matrix and a vector, in float64."""
    found: Array = np.matmul(left, right)
    return found


class Product(NamedTuple):
    """s·L·R is added to a block of a written plane, whatever the orientation of its parameter."""

    change: LowRank
    row: int
    column: int
    #: (rows, r) and (r, columns), in float64.
    left: Array
    right: Array
    #: The factor of each output afterwards, and whether outputs are rows here; None if there are no magnitudes.
    outputs_are_rows: bool


class Matrices:
    """An adapter's matrices in float64."""

    def __init__(self, changes: Changes) -> None:
        self._changes = changes
        self._last: dict[Factor, Array] = {}

    def of(self, factor: Factor) -> Array:
        """Return a matrix."""
        if factor not in self._last:
            if len(self._last) > _MATRICES:
                self._last.clear()
            file = self._changes.file
            tensor = file.tensors[factor.key]
            matrix = raw(file, factor.key).reshape(tensor.shape[0], -1)
            self._last[factor] = decoded(matrix[slice(*factor.rows), slice(*factor.columns)], tensor.dtype)
        return self._last[factor]

    def vector(self, key: str) -> Array:
        """Return a tensor of any shape as one row of numbers."""
        return decoded(raw(self._changes.file, key), self._changes.file.tensors[key].dtype)


def product_of(change: LowRank, window: Window, plane: int, matrices: Matrices) -> Product | None:
    """Return a change's part in a plane of a written tensor; None if it is in another plane, or outside the window."""
    at = plane - window.plane + window.parameter_plane
    inside = window.plane <= plane < window.plane + window.planes
    if not inside or (change.plane is not None and change.plane != at):
        return None
    b, a = matrices.of(change.b), matrices.of(change.a)
    # The parameter's block, cut to the window.
    (top, height), (begin, width) = change.rows, change.columns
    tall, wide = (window.columns, window.rows) if window.turned else (window.rows, window.columns)
    r0, r1 = max(top, window.parameter_row), min(top + height, window.parameter_row + tall)
    c0, c1 = max(begin, window.parameter_column), min(begin + width, window.parameter_column + wide)
    if r0 >= r1 or c0 >= c1:
        return None
    left, right = (a.T, b.T) if change.across else (b, a)
    left, right = left[r0 - top : r1 - top], right[:, c0 - begin : c1 - begin]
    row, column = r0 - window.parameter_row, c0 - window.parameter_column
    outputs_are_rows = not change.across
    if window.turned:
        left, right, row, column, outputs_are_rows = right.T, left.T, column, row, change.across
    return Product(change, window.row + row, window.column + column, left, right, outputs_are_rows)


class Codes(NamedTuple):
    """A weight in 4 bits, in the format's own terms."""

    #: Two weights per byte.
    codes: Array
    #: One for each block, in float32.
    scales: Array
    block_size: int
    #: The values of the 16 codes.
    book: Array
    #: The type to which it is widened.
    dtype: str


def packed_codes(base: StoredBase, name: str) -> Codes:
    """Return a packed weight from a base's files."""
    packed = base.packed[name]
    state = json.loads(bytes(base.bytes_of(f"{name}.quant_state.bitsandbytes__{packed.kind}")))
    scales = raw(base, f"{name}.absmax")
    if f"{name}.nested_absmax" in packed.parts:
        book, nested = raw(base, f"{name}.nested_quant_map"), raw(base, f"{name}.nested_absmax")
        of_block = np.repeat(nested, state["nested_blocksize"])[: len(scales)]
        scales = book[scales] * of_block + np.float32(state["nested_offset"])
    codes = np.frombuffer(base.bytes_of(name), dtype="u1")
    book = raw(base, f"{name}.quant_map")
    return Codes(codes, scales.astype("<f4"), int(state["blocksize"]), book, FORMATS[state["dtype"]])


@dataclass
class BaseNumbers:
    """The base's numbers from which a written tensor is computed, in float64."""

    base: StoredBase
    written: MergedTensor
    #: For a weight that goes through 4 bits.
    codes: Codes | None = None
    #: All numbers, if they are known in another way.
    wide: Array | None = None

    def rows(self, plane: int, rows: Array) -> Array:
        """Return these rows of a plane, (rows, columns)."""
        grid, source = self.written.grid, self.written.source
        if self.wide is not None:
            return self.wide[rows]
        if source is None:
            return np.zeros((len(rows), grid.columns))
        if self.codes is not None:
            return self._from_codes(self.codes, rows)
        tensor = self.base.tensors[source]
        own = self.written.base_rows or grid.rows
        planes = raw(self.base, source).reshape(grid.planes, own, grid.columns)
        values = decoded(planes[plane][np.minimum(rows, own - 1)], tensor.dtype)
        # Further rows are the adapter's alone.
        values[rows >= own] = 0.0
        return rounded(values, self.written.through) if self.written.through else values

    def _from_codes(self, packed: Codes, rows: Array) -> Array:
        grid = self.written.grid
        if self.written.turned:
            # Rows here are columns of the packed weight.
            places = np.arange(grid.columns)[None, :] * grid.rows + rows[:, None]
        else:
            places = rows[:, None] * grid.columns + np.arange(grid.columns)[None, :]
        both = packed.codes[places // 2]
        picked = packed.book[np.where(places % 2 == 0, both >> 4, both & 15)]
        wide = picked.astype("<f4") * packed.scales[places // packed.block_size]
        return rounded(wide.astype("<f8"), packed.dtype)
