"""One tensor of a merged model, computed a second time and compared with the disk.

A random product with every block of rows is compared with W·x + s·B·(A·x), and one row in 64 is computed again in
float64; if nothing is added, all rows are.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from workers.pipelines.errors import PipelineError
from workers.pipelines.merging.changes import AdapterRows, LowRank, Shift, Whole
from workers.pipelines.merging.found import FoundCorrect, wrong
from workers.pipelines.merging.independent import (
    FORMATS,
    BaseNumbers,
    Codes,
    Matrices,
    Product,
    decoded,
    half_step,
    in_float32,
    packed_codes,
    product_of,
    raw,
    rounded,
    smallest_step,
    step_at,
    times,
)
from workers.pipelines.merging.plan import MergedTensor, Window, parameter_grid
from workers.pipelines.merging.prepared import Prepared
from workers.pipelines.merging.stored_base import StoredBase

if TYPE_CHECKING:
    from workers.pipelines.merging.independent import Array

#: One row in this many consecutive ones is computed again; about as many rows are written at a time.
_ONE_ROW_IN = 64
#: The least number of rows of a small tensor that are computed again.
_LEAST_ROWS = 8
#: The same for tensors that are only widened from 4 bits.
_CODES_ROW_IN = 8
#: The share of a sum of squares below which too little of it is left after cancellation.
_CANCELLED = 1e-6
#: How many numbers a block has that is multiplied by a random vector.
_BLOCK_NUMBERS = 2**19
#: By how many standard deviations rounding may move a product: exceeded by chance once in 10¹³ rows (Hoeffding's inequality).
_DEVIATIONS = 8.0
#: How far 32-bit sums may be from float64 sums, as a share of the sum of absolute values; with magnitudes (DoRA), as a
#: share of the result.
_SUM_ERROR, _DORA_ERROR = 1e-6, 1e-5
#: A last digit at the larger of W and s·B·A, of which a sum of both may be all off, and what float32 rounds before.
_ONE_STEP = 1.001
#: The share of numbers in 16 bit that may be a last digit from the float64 rounding, for float32 rounds before.
_UNEQUAL_SHARE = 0.001


class Recomputed:
    """One tensor that is not the base's, compared with what it should be."""

    def __init__(
        self,
        prepared: Prepared,
        files: StoredBase,
        written: MergedTensor,
        found: FoundCorrect,
    ) -> None:
        self._prepared, self._files, self._written = prepared, files, written
        self._found, self._squares, self._blurs = found, found.squares, found.blur_squares
        self._matrices = Matrices(prepared.changes)
        self._base = self._base_numbers()
        grid, dtype = written.grid, files.tensors[written.name].dtype
        self._dtype = dtype
        self._numbers = raw(files, written.name).reshape(grid.planes, grid.rows, grid.columns)
        self._random = np.random.default_rng(int(prepared.digest[:8], 16))
        self._factors: dict[str, Array] = {}

    def check(self) -> None:
        """Raise PipelineError ("verification") if it is not what it should be."""
        grid = self._written.grid
        for plane in range(grid.planes):
            products = self._products(plane)
            simple = all(isinstance(each, LowRank) for window in self._written.windows for each in window.changes)
            for product in products:
                module, squares = product.change.module, self._found.formula_squares
                squares[module] = squares.get(module, 0.0) + _square(product)
                if product.change.magnitude is not None or not simple:
                    self._found.scaled.add(module)
            if not products or not simple:
                # Only the base's numbers, or the adapter's, in another type: all of them are compared, except for 4
                # bits, which take long to look up one by one.
                step = _CODES_ROW_IN if self._base.codes is not None and not products else 1
                self._compare_rows(plane, products, np.arange(plane % step, grid.rows, step))
                self._measure(plane, products)
                continue
            self._multiply(plane, products)
            self._compare_rows(plane, products, self._one_of_each_block(grid.rows))

    def _one_of_each_block(self, rows: int) -> Array:
        block = max(1, min(_ONE_ROW_IN, rows // _LEAST_ROWS))
        begins = np.arange(0, rows, block)
        picked: Array = begins + self._random.integers(np.minimum(block, rows - begins))
        return picked

    def _products(self, plane: int) -> list[Product]:
        given = (
            product_of(change, window, plane, self._matrices)
            for window in self._written.windows
            for change in window.changes
            if isinstance(change, LowRank)
        )
        return [product for product in given if product is not None]

    def _multiply(self, plane: int, products: list[Product]) -> None:
        """Compare W'·x with W·x + s·B·(A·x) for a vector of signs, block by block, and compute the norms of W' − W."""
        grid, wide = self._written.grid, self._dtype in ("F32", "F64")
        signs = self._random.choice([-1.0, 1.0], grid.columns)
        x = signs if wide else signs.astype("<f4")
        expected = np.zeros(grid.rows)
        scales_rows, scales_columns = np.ones(grid.rows), np.ones(grid.columns)
        for product in products:
            columns = slice(product.column, product.column + product.right.shape[1])
            rows = slice(product.row, product.row + product.left.shape[0])
            if product.change.magnitude is not None:
                if product.outputs_are_rows:
                    scales_rows[rows] = self._factor(product, plane)
                else:
                    scales_columns[columns] = self._factor(product, plane)
            into = times(product.right, signs[columns] * scales_columns[columns])
            expected[rows] += product.change.scale * times(product.left, into)
        plain = bool((scales_rows == 1).all() and (scales_columns == 1).all())
        step = max(1, _BLOCK_NUMBERS // max(1, grid.columns))
        share, least = half_step(self._dtype), smallest_step(self._dtype)
        for begin in range(0, grid.rows, step):
            end = min(begin + step, grid.rows)
            ours = _copied(self._numbers[plane, begin:end], self._dtype, wide=wide)
            theirs = self._base_block(plane, begin, end, wide=wide)
            sizes = np.sqrt(np.einsum("ij,ij->i", ours, ours)).astype("<f8")
            blur = sizes * share + least * math.sqrt(grid.columns)
            if plain:
                moved = np.subtract(ours, theirs, out=ours)
                residual = (moved @ x).astype("<f8") - expected[begin:end]
                self._add_norms(moved, products, begin, blur)
            else:
                self._add_norms(ours - theirs, products, begin, blur)
                of_base = (theirs @ (x * scales_columns.astype(x.dtype))).astype("<f8")
                residual = (ours @ x).astype("<f8") - scales_rows[begin:end] * (of_base + expected[begin:end])
            allowed = _DEVIATIONS * share * sizes + grid.columns * (least + 0.0)
            of_sums = _SUM_ERROR if plain else _DORA_ERROR
            allowed += of_sums * (sizes * math.sqrt(grid.columns) + np.abs(expected[begin:end]) * 2)
            if not bool((np.abs(residual) <= allowed).all()):
                worst = begin + int(np.argmax(np.abs(residual) - allowed))
                raise self._not_the_sum(products, plane, worst)

    def _base_block(self, plane: int, begin: int, end: int, *, wide: bool) -> Array:
        written = self._written
        if (
            written.source is not None
            and self._base.codes is None
            and self._base.wide is None
            and not (written.through or written.base_rows)
        ):
            grid = written.grid
            base = self._prepared.base
            numbers = raw(base, written.source).reshape(grid.planes, grid.rows, grid.columns)
            return _copied(numbers[plane, begin:end], base.tensors[written.source].dtype, wide=wide)
        rows = self._base.rows(plane, np.arange(begin, end))
        return rows if wide else rows.astype("<f4")

    def _add_norms(self, moved: Array, products: list[Product], begin: int, blur: Array) -> None:
        """Add the squares of W' − W in the modules' blocks; `moved` are rows of it, `blur` the part of each that may be
        rounding.
        """
        for product in products:
            first, last = max(product.row - begin, 0), min(product.row + product.left.shape[0] - begin, len(moved))
            if first >= last:
                continue
            module = product.change.module
            block = moved[first:last, product.column : product.column + product.right.shape[1]]
            square = float(np.einsum("ij,ij->i", block, block).sum(dtype="<f8"))
            self._squares[module] = self._squares.get(module, 0.0) + square
            self._blurs[module] = self._blurs.get(module, 0.0) + float((blur[first:last] ** 2).sum())

    def _measure(self, plane: int, products: list[Product]) -> None:
        grid = self._written.grid
        for begin in range(0, grid.rows if products else 0, step := max(1, _BLOCK_NUMBERS // max(1, grid.columns))):
            rows = np.arange(begin, min(begin + step, grid.rows))
            ours = decoded(self._numbers[plane][rows], self._dtype)
            before = ours if self._is_replaced(plane) else self._base.rows(plane, rows)
            blur = np.linalg.norm(ours, axis=1) * half_step(self._dtype)
            blur += smallest_step(self._dtype) * math.sqrt(grid.columns)
            self._add_norms(ours - before, products, begin, blur)

    def _is_replaced(self, plane: int) -> bool:
        return any(isinstance(window.changes[0], Whole) for window in self._written.windows)

    def _compare_rows(self, plane: int, products: list[Product], rows: Array) -> None:
        """Compare some rows with their float64 values."""
        self._found.rows += len(rows)
        for begin in range(0, len(rows), step := max(1, _BLOCK_NUMBERS // max(1, self._written.grid.columns))):
            picked = rows[begin : begin + step]
            ours = decoded(self._numbers[plane][picked], self._dtype)
            expected, size, sums = self._expected(plane, products, picked)
            if np.array_equal(ours, expected):
                continue
            unequal = ours != rounded(expected, self._dtype)
            if not unequal.any():
                continue
            with np.errstate(invalid="ignore"):
                error = np.abs(ours - expected)
            wide = self._dtype in ("F32", "F64")
            # The sum is computed in float32 before rounding, which shows if a step of a small number is small.
            allowed = _SUM_ERROR * size if wide else _ONE_STEP * step_at(size, self._dtype) + _SUM_ERROR * sums
            if any(product.change.magnitude is not None for product in products):
                allowed = allowed + _DORA_ERROR * size
            # A mere conversion to another type is exact.
            exact = not any(
                isinstance(each, LowRank | Shift) for window in self._written.windows for each in window.changes
            )
            if not wide:
                # A number that is the nearest of its type, up to the error of that sum, is rounded correctly.
                unequal &= ~(error <= step_at(np.abs(expected), self._dtype) / 2 + _SUM_ERROR * sums)
            coarse = not wide and unequal.sum() > 2 + _UNEQUAL_SHARE * unequal.size
            if exact or coarse or not bool((error <= allowed).all()):
                worst = picked[int(np.argmax((error / (allowed + 1e-300)).max(axis=1)))]
                raise self._not_the_sum(products, plane, int(worst))

    def _expected(self, plane: int, products: list[Product], rows: Array) -> tuple[Array, Array, Array]:
        """Return the correct rows in float64, the larger of |W| and the sums of absolute values that are added to it,
        and |s|·Σ|B||A|.
        """
        total = (
            self._base.rows(plane, rows)
            if not self._is_replaced(plane)
            else np.zeros((len(rows), self._written.grid.columns))
        )
        size, sums = np.abs(total), np.zeros_like(total)
        seen = iter(products)
        for window in self._written.windows:
            for change in window.changes:
                if isinstance(change, LowRank):
                    if product_of(change, window, plane, self._matrices) is not None:
                        self._add_product(next(seen), plane, rows, total, size, sums)
                else:
                    self._put(change, window, plane, rows, total, size)
        return total, size, sums

    def _add_product(self, product: Product, plane: int, rows: Array, total: Array, size: Array, sums: Array) -> None:
        inside = (rows >= product.row) & (rows < product.row + product.left.shape[0])
        columns = slice(product.column, product.column + product.right.shape[1])
        left, scale = product.left[rows[inside] - product.row], product.change.scale
        added = scale * times(left, product.right)
        block = total[inside, columns] + added
        magnitudes = abs(scale) * times(np.abs(left), np.abs(product.right))
        sums[inside, columns] += magnitudes
        if self._dtype in ("F32", "F64"):
            sizes = size[inside, columns] + magnitudes
        else:
            sizes = np.maximum(size[inside, columns], np.abs(added))
        if product.change.magnitude is not None:
            factor = self._factor(product, plane)
            spread = factor[rows[inside] - product.row][:, None] if product.outputs_are_rows else factor[None, :]
            block, sizes = block * spread, sizes * np.abs(spread)
        total[inside, columns], size[inside, columns] = block, sizes

    def _put(
        self, change: Whole | Shift | AdapterRows, window: Window, plane: int, rows: Array, total: Array, size: Array
    ) -> None:
        """Put the adapter's own numbers into some rows of a plane of (rows, columns)."""
        inside = (rows >= window.row) & (rows < window.row + window.rows)
        here = rows[inside] - window.row
        columns = slice(window.column, window.column + window.columns)
        grid, at = (
            parameter_grid(window.parameter, self._prepared.changes),
            plane - window.plane + window.parameter_plane,
        )
        given = self._matrices.vector(change.key)
        own_rows, own_columns = (grid.columns, grid.rows) if window.turned else (grid.rows, grid.columns)
        first_row, first_column = window.parameter_row, window.parameter_column
        if window.turned:
            first_row, first_column = first_column, first_row
        across = slice(first_column, first_column + window.columns)
        if isinstance(change, AdapterRows):
            tokens = given.reshape(len(change.indices), -1)
            for number, index in enumerate(change.indices):
                total[rows == index - window.parameter_row + window.row] = tokens[number][across]
            return
        matrix = given.reshape(grid.planes, grid.rows, grid.columns)[at]
        block = (matrix.T if window.turned else matrix).reshape(own_rows, own_columns)[here + first_row, across]
        if isinstance(change, Whole):
            total[inside, columns] = block
        else:
            total[inside, columns] += change.scale * block
        size[inside, columns] = np.maximum(size[inside, columns], np.abs(total[inside, columns]))

    def _factor(self, product: Product, plane: int) -> Array:
        """Return m / ‖W + s·B·A‖ of each output of a product."""
        key = product.change.magnitude or ""
        if key not in self._factors:
            norms = self._output_squares(product, plane)
            self._factors[key] = self._matrices.vector(key) / np.sqrt(norms)
        return self._factors[key]

    def _output_squares(self, product: Product, plane: int) -> Array:
        """Return the squares of the outputs' norms; for a weight spread over several tensors, one tensor isn't enough."""
        count = product.left.shape[0] if product.outputs_are_rows else product.right.shape[1]
        squares = np.zeros(count)
        grid = self._written.grid
        for begin in range(0, product.left.shape[0], step := max(1, _BLOCK_NUMBERS // max(1, grid.columns))):
            rows = np.arange(begin, min(begin + step, product.left.shape[0]))
            block = self._base.rows(plane, rows + product.row)
            block = block[:, product.column : product.column + product.right.shape[1]]
            block = (block + product.change.scale * times(product.left[rows], product.right)) ** 2
            if product.outputs_are_rows:
                squares[rows] = block.sum(axis=1)
            else:
                squares += block.sum(axis=0)
        return squares

    def _base_numbers(self) -> BaseNumbers:
        prepared, written, source = self._prepared, self._written, self._written.source or ""
        base, recipe = prepared.base, prepared.target.recipe
        width = written.grid.rows if written.turned else written.grid.columns
        if source in base.packed:
            codes = packed_codes(base, source)
            if width % codes.block_size == 0:
                return BaseNumbers(base, written, codes=codes)
            from workers.pipelines.merging.four_bits import stored_in_four_bits

            held = stored_in_four_bits(base, source)
        elif written.four_bits:
            assert recipe is not None
            weight = base.read(source).T if written.turned else base.read(source)
            if width % recipe.four_bit_block == 0:
                return BaseNumbers(base, written, codes=_whole_codes(weight, recipe))
            from workers.pipelines.merging.four_bits import quantised
            from workers.pipelines.model.device import DTYPES

            held = quantised(weight, recipe, DTYPES[recipe.compute_dtype])
        else:
            return BaseNumbers(base, written)
        # The library's result for such a width follows no definition.
        wide = held.rows(0, held.shape[0]).double().numpy()
        return BaseNumbers(base, written, wide=wide.T if written.turned else wide)

    def _not_the_sum(self, products: list[Product], plane: int, row: int) -> PipelineError:
        modules = sorted({each.change.module for each in products if each.row <= row < each.row + each.left.shape[0]})
        expert = f", expert {plane}" if self._written.grid.planes > 1 else ""
        of = f" of {', '.join(modules)}" if modules else ""
        return wrong(
            self._written.name,
            f"are not the base's and the adapter's{of}, by a second computation of row {row}{expert}",
        )


def _copied(values: Array, dtype: str, *, wide: bool) -> Array:
    """Return a copy of numbers as read, in float32 or float64."""
    return decoded(values, dtype) if wide else in_float32(values, dtype)


def _square(product: Product) -> float:
    """Return ‖s·L·R‖² without forming the product: Σ (LᵀL)∘(RRᵀ) (Petersen and Pedersen, The Matrix Cookbook, eq. 16)."""
    grams = times(product.left.T, product.left) * times(product.right, product.right.T)
    square = float(grams.sum())
    if square < _CANCELLED * float(np.abs(grams).sum()):
        # If sums cancel, only rounding is left; triangular factors avoid this, since they have the product's own size.
        left: Any = np.linalg.qr(product.left, mode="r")
        right: Any = np.linalg.qr(product.right.T, mode="r")
        square = float(np.linalg.norm(left @ right.T)) ** 2
    return square * product.change.scale**2


def _whole_codes(weight: Any, recipe: Any) -> Codes:
    """Return bitsandbytes' result for a whole weight, as when loading a model."""
    from bitsandbytes.functional import get_4bit_type, quantize_4bit

    from workers.pipelines.model.device import DTYPES

    dtype = DTYPES[recipe.compute_dtype]
    codes, state = quantize_4bit(
        weight.to(dtype).contiguous(),
        blocksize=recipe.four_bit_block,
        compress_statistics=recipe.double_quant,
        quant_type=recipe.type,
    )
    scales = state.absmax.numpy()
    if state.nested:
        nested = np.repeat(state.state2.absmax.numpy(), state.state2.blocksize)[: len(scales)]
        scales = state.state2.code.numpy()[scales] * nested + np.float32(state.offset)
    book = get_4bit_type(recipe.type, device="cpu").numpy()
    return Codes(
        codes.reshape(-1).numpy(), scales.astype("<f4"), recipe.four_bit_block, book, FORMATS[recipe.compute_dtype]
    )
