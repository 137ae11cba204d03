"""The numbers of a merge, some rows at a time: W' = W + s·B·A in float32, as PEFT adds it, before it is rounded once."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from sdk.schemas.lora_config import QuantizationRecipe
from workers.pipelines.merging.changes import AdapterRows, Changes, Factor, LowRank, Shift, Whole, low_rank
from workers.pipelines.merging.plain_blocks import not_finite, ranges_of
from workers.pipelines.merging.plan import MergedTensor, Window, parameter_grid
from workers.pipelines.merging.stored_base import StoredBase
from workers.pipelines.model.device import DTYPES
from workers.pipelines.model.torch_tensors import TORCH_TYPES

if TYPE_CHECKING:
    from workers.pipelines.merging.four_bits import FourBits


class _ScratchMemory(threading.local):
    """Memory that each thread reuses: allocating it again takes as long as filling it."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, Any], Any] = {}

    def of(self, what: str, rows: int, columns: int, dtype: Any) -> Any:
        """Return memory for (rows, columns) numbers; the same request returns the same memory again."""
        held = self._held.get((what, dtype))
        if held is None or held.numel() < rows * columns:
            held = self._held[what, dtype] = torch.empty(rows * columns, dtype=dtype)
        return held[: rows * columns].view(rows, columns)


class Blocks:
    """Reads a base and an adapter, and gives the rows of what is written."""

    def __init__(
        self, base: StoredBase, changes: Changes, written: Sequence[MergedTensor], recipe: QuantizationRecipe | None
    ) -> None:
        self._base, self._changes, self._recipe = base, changes, recipe
        self._of_parameter: dict[str, list[tuple[MergedTensor, Window]]] = {}
        for each in written:
            for window in each.windows:
                self._of_parameter.setdefault(window.parameter, []).append((each, window))
        self._wide: tuple[str, Any] = "", None
        self._matrices: dict[Factor, Any] = {}
        self._held = ""
        self._factors: dict[str, Any] = {}
        self._room = _ScratchMemory()

    def ranges(self, written: MergedTensor) -> Iterator[tuple[int, int]]:
        """Yield the rows of a plane that are computed at a time, as (begin, end)."""
        return ranges_of(written)

    def weight(self, parameter: str) -> Any:
        """Return a changed parameter with the base's numbers, (rows, columns) in float32."""
        grid = parameter_grid(parameter, self._changes)
        found = torch.empty(grid.rows, grid.columns)
        for written, window in self._of_parameter[parameter]:
            for begin, end in self.ranges(written):
                first, last = max(begin, window.row), min(end, window.row + window.rows)
                if first >= last:
                    continue
                block = self._base_rows(written, window.plane, begin, end)[first - begin : last - begin]
                block = block[:, window.column : window.column + window.columns]
                row, column, along = window.parameter_row, window.parameter_column, first - window.row
                if window.turned:
                    block, column = block.T, column + along
                else:
                    row += along
                found[row : row + block.shape[0], column : column + block.shape[1]] = block
        return found

    def bytes_of(self, written: MergedTensor, plane: int, begin: int, end: int) -> memoryview:
        """Return the same as bytes. Raises PipelineError ("verification") for NaN and infinities."""
        rows = self.rows(written, plane, begin, end)
        # A sum is finite if all numbers are, unless it overflows.
        if rows.is_floating_point() and not math.isfinite(rows.sum(dtype=torch.float32)) and not rows.isfinite().all():
            raise not_finite(written)
        return memoryview(rows.contiguous().view(torch.uint8).numpy().reshape(-1))

    def rows(self, written: MergedTensor, plane: int, begin: int, end: int) -> Any:
        """Return the rows [begin, end) of a plane of a tensor, (rows, columns) in its own type; valid until the next call."""
        if self._held != written.name:
            # Values cached for the previous tensor are useless for this one.
            self._held = written.name
            self._matrices.clear()
            for window in written.windows:
                for change in low_rank(window.changes):
                    # The first pass over a weight uses the same memory as the second.
                    self._prepare_factor(change, window.parameter)
        block = self._base_rows(written, plane, begin, end)
        for window in written.windows:
            self._change(block, window, plane, begin, end)
        dtype = TORCH_TYPES[written.dtype]
        return (
            block
            if block.dtype == dtype
            else self._room.of("rounded", end - begin, written.grid.columns, dtype).copy_(block)
        )

    def _base_rows(self, written: MergedTensor, plane: int, begin: int, end: int) -> Any:
        """Return a copy of the base's rows in the type of the sum."""
        grid = written.grid
        source = written.source
        if source is None or _replaced(written):
            return self._room.of("block", end - begin, grid.columns, torch.float32).zero_()
        if source in self._base.packed or written.four_bits:
            return self._wide_rows(written, begin, end).float()
        tensor = self._base.read(source).reshape(grid.planes, written.base_rows or grid.rows, grid.columns)
        tensor = tensor[plane, begin:end]
        if written.through:
            tensor = tensor.to(TORCH_TYPES[written.through])
        summed = torch.float32 if tensor.is_floating_point() and tensor.dtype != torch.float64 else tensor.dtype
        block = self._room.of("block", end - begin, grid.columns, summed)
        block[: len(tensor)].copy_(tensor)
        block[len(tensor) :].zero_()
        return block

    def _wide_rows(self, written: MergedTensor, begin: int, end: int) -> Any:
        name, held = self._wide
        if name != written.source:
            held = self._four_bits(written)
            if written.turned:
                held = held.rows(0, held.shape[0]).T.contiguous()
            self._wide = written.source or "", held
        # A weight in 4 bits is made wide some rows at a time.
        return held[begin:end] if isinstance(held, torch.Tensor) else held.rows(begin, end)

    def _four_bits(self, written: MergedTensor) -> FourBits:
        # Only such merges need bitsandbytes.
        from workers.pipelines.merging.four_bits import quantised, stored_in_four_bits

        assert written.source is not None
        if written.source in self._base.packed:
            return stored_in_four_bits(self._base, written.source)
        assert self._recipe is not None
        weight = self._base.read(written.source)
        return quantised(weight.T if written.turned else weight, self._recipe, DTYPES[self._recipe.compute_dtype])

    def _change(self, block: Any, window: Window, plane: int, begin: int, end: int) -> None:
        """Apply a window's changes to a block of rows, in place."""
        if not window.plane <= plane < window.plane + window.planes:
            return
        first, last = max(begin, window.row), min(end, window.row + window.rows)
        if first >= last:
            return
        view = block[first - begin : last - begin, window.column : window.column + window.columns]
        along, across = first - window.row, window.columns
        row, column = window.parameter_row, window.parameter_column
        if window.turned:
            view = view.T
            rows, columns = (row, row + across), (column + along, column + along + last - first)
        else:
            rows, columns = (row + along, row + along + last - first), (column, column + across)
        at = plane - window.plane + window.parameter_plane
        for change in window.changes:
            if isinstance(change, LowRank):
                self._add(view, change, window.parameter, at, rows, columns)
            else:
                self._put(view, change, window.parameter, at, rows, columns)

    def _put(
        self,
        view: Any,
        change: Whole | Shift | AdapterRows,
        parameter: str,
        plane: int,
        rows: tuple[int, int],
        columns: tuple[int, int],
    ) -> None:
        tensor = self._changes.file.read(change.key)
        if isinstance(change, AdapterRows):
            for number, index in enumerate(change.indices):
                if rows[0] <= index < rows[1]:
                    view[index - rows[0]] = tensor[number, columns[0] : columns[1]].to(view.dtype)
            return
        grid = parameter_grid(parameter, self._changes)
        given = tensor.reshape(grid.planes, grid.rows, grid.columns)[plane, rows[0] : rows[1], columns[0] : columns[1]]
        if isinstance(change, Whole):
            view.copy_(given)
        else:
            view += given.to(view.dtype) * change.scale

    def _add(
        self, view: Any, change: LowRank, parameter: str, plane: int, rows: tuple[int, int], columns: tuple[int, int]
    ) -> None:
        """Add s·B·A, or its transpose if the parameter is stored transposed; then scale each output to its magnitude."""
        if change.plane is not None and change.plane != plane:
            return
        (top, height), (left, width) = change.rows, change.columns
        r0, r1 = max(rows[0], top), min(rows[1], top + height)
        c0, c1 = max(columns[0], left), min(columns[1], left + width)
        if r0 >= r1 or c0 >= c1:
            return
        part = view[r0 - rows[0] : r1 - rows[0], c0 - columns[0] : c1 - columns[0]]
        b, a = self.matrix(change.b), self.matrix(change.a)
        if change.across:
            room = self._room.of("delta", c1 - c0, r1 - r0, torch.float32)
            delta = torch.mm(b[c0 - left : c1 - left], a[:, r0 - top : r1 - top], out=room).T
        else:
            room = self._room.of("delta", r1 - r0, c1 - c0, torch.float32)
            delta = torch.mm(b[r0 - top : r1 - top], a[:, c0 - left : c1 - left], out=room)
        # Two roundings, as in PEFT; one call for both would differ in the last digit.
        part += delta.mul_(change.scale)
        if change.magnitude is not None:
            factor = self._factors[change.magnitude]
            part *= factor[c0:c1] if change.across else factor[r0:r1, None]

    def matrix(self, factor: Factor) -> Any:
        """Return a matrix of the adapter in float32."""
        if factor not in self._matrices:
            tensor = self._changes.file.read(factor.key)
            view = tensor.reshape(tensor.shape[0], -1)[slice(*factor.rows), slice(*factor.columns)]
            self._matrices[factor] = view.to(torch.float32).contiguous()
        return self._matrices[factor]

    def _prepare_factor(self, change: LowRank, parameter: str) -> None:
        """Find m / ‖W + s·B·A‖, one number for each output (DoRA, arXiv:2402.09353, equation 5): the first of two passes."""
        if change.magnitude is None or change.magnitude in self._factors:
            return
        outputs = change.columns[1] if change.across else change.rows[1]
        squares = torch.zeros(outputs, dtype=torch.float64)
        for written, window in self._of_parameter[parameter]:
            self._add_squares(squares, written, window, change)
        magnitude = self._changes.file.read(change.magnitude).reshape(-1).double()
        self._factors[change.magnitude] = (magnitude / squares.sqrt()).float()

    def _add_squares(self, squares: Any, written: MergedTensor, window: Window, change: LowRank) -> None:
        plain = replace(
            window, changes=(*window.changes[: window.changes.index(change)], replace(change, magnitude=None))
        )
        for begin, end in self.ranges(written):
            first, last = max(begin, window.row), min(end, window.row + window.rows)
            if first >= last:
                continue
            block = self._base_rows(written, window.plane, begin, end)
            self._change(block, plain, window.plane, begin, end)
            view = block[first - begin : last - begin, window.column : window.column + window.columns].double()
            row, column = window.parameter_row, window.parameter_column
            along = first - window.row
            # The view's axis of outputs, and where they begin.
            outputs_in_rows = change.across == window.turned
            summed = view.square().sum(1 if outputs_in_rows else 0)
            offset = (column if change.across else row) + (along if outputs_in_rows else 0)
            squares[offset : offset + len(summed)] += summed


def _replaced(written: MergedTensor) -> bool:
    """Whether all of a tensor's numbers are the adapter's."""
    if len(written.windows) != 1:
        return False
    (window,) = written.windows
    whole = (window.rows, window.columns, window.planes) == (
        written.grid.rows,
        written.grid.columns,
        written.grid.planes,
    )
    return whole and isinstance(window.changes[0], Whole)
