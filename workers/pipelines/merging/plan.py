"""What a merge will write, from headers and configs alone: each tensor's type, shape, place and changes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from sdk.formats.safetensors import Kind
from sdk.schemas.failures import FailureReason
from sdk.schemas.lora_config import QuantizationRecipe
from workers.pipelines.errors import PipelineError
from workers.pipelines.merging.changes import AdapterRows, Change, Changes, LowRank, Whole, inexact
from workers.pipelines.merging.pieces import Piece, Placement
from workers.pipelines.merging.stored_base import FLOATS, StoredBase
from workers.pipelines.model.dtype_names import FILE_DTYPES, DtypeName

Onto = Literal["original", "dequantized"]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Grid:
    """A tensor as planes of rows and columns: a matrix is one plane, a vector is one column, each expert is a plane."""

    planes: int
    rows: int
    columns: int


@dataclass(frozen=True)
class Window:
    """The block of a written tensor that corresponds to a block of a parameter, and the parameter's changes."""

    parameter: str
    changes: tuple[Change, ...]
    #: The first plane here and in the parameter, and how many consecutive planes.
    plane: int
    parameter_plane: int
    planes: int
    #: The block in the written tensor.
    row: int
    column: int
    rows: int
    columns: int
    parameter_row: int
    parameter_column: int
    #: Whether the parameter's rows are columns here.
    turned: bool


@dataclass(frozen=True)
class MergedTensor:
    """A tensor of the merged model."""

    name: str
    file: str
    dtype: str
    shape: Shape
    grid: Grid
    #: The base's tensor from which its numbers come; None if they are only the adapter's.
    source: str | None
    windows: tuple[Window, ...] = ()
    #: The type to which the base's numbers are converted first, if that is not their own.
    through: str | None = None
    #: Whether the base's numbers go through 4 bits, as in training.
    four_bits: bool = False
    #: Whether the base's file, or a training, has its transpose in 4 bits.
    turned: bool = False
    #: Whether it has exactly the bytes of the base's tensor.
    copied: bool = False
    #: How many rows the base's tensor has, if the others are the adapter's; None: as many.
    base_rows: int | None = None

    @property
    def size_bytes(self) -> int:
        """Of its numbers."""
        return Kind(self.dtype, self.shape).size_bytes


@dataclass(frozen=True)
class ResolvedMerge:
    """The options of a merge, all resolved."""

    onto: Onto
    #: None: each tensor keeps its type.
    dtype: DtypeName | None
    #: The type for weights that are stored in 4 bits, if no other was requested.
    stored: DtypeName
    #: The training's recipe, None over a base that was not quantised.
    recipe: QuantizationRecipe | None
    #: The parameters that a training has in 4 bits; empty if merging onto the original.
    quantised: frozenset[str]
    #: The ones among them, or among packed ones, that the model stores transposed.
    transposed: frozenset[str]
    #: Parameter to its type in the requested precision, and to its type in training.
    precisions: Mapping[str, Any]
    trained: Mapping[str, Any]
    #: Whether tensors that the model doesn't use are left out.
    drops_unused: bool


def plan_tensors(
    base: StoredBase, placement: Placement, changes: Changes, target: ResolvedMerge
) -> tuple[list[MergedTensor], list[str]]:
    """Return all tensors in the order in which they are written, and the names of those that were tied to another.

    Raises PipelineError if something can't be merged exactly.
    """
    _require_shapes(placement, changes)
    _require_complete(placement, changes)
    of_source = placement.of_source()
    found: list[MergedTensor] = []
    for name in base.weight_names():
        if name in placement.unused and target.drops_unused:
            continue
        found.append(_stored(name, of_source.get(name, []), base, changes, target))
    added, untied = _added(base, placement, changes, target)
    reached = {window.parameter for each in (*found, *added) for window in each.windows}
    same = {name for group in changes.tied for name in group if set(group) & reached}
    for parameter in changes.by_parameter:
        if parameter not in reached and parameter not in same:
            raise inexact(parameter, "is made of several of the base's tensors in a way that is not followed here")
    return found + added, untied


def _stored(
    name: str, parts: list[tuple[str, Piece]], base: StoredBase, changes: Changes, target: ResolvedMerge
) -> MergedTensor:
    """Return what becomes of one of the base's tensors."""
    tensor = base.tensors[name]
    parameters = [parameter for parameter, _ in parts]
    changed = [(parameter, piece) for parameter, piece in parts if parameter in changes.by_parameter]
    packed = name in base.packed
    turned = bool(target.transposed.intersection(parameters))
    shape = base.shape(name)
    if packed and turned:
        shape = (shape[1], shape[0])
    if changed and (whole := _first_whole(changed, changes)) is not None:
        shape = whole
    base_rows = None
    if changed and _grows(changed[0][0], shape, changes):
        base_rows, shape = shape[0], changes.shapes[changed[0][0]]
    four_bits = not packed and bool(target.quantised.intersection(parameters))
    floating = packed or tensor.dtype in FLOATS
    if changed and not floating:
        raise inexact(changed[0][0], f"is stored as {tensor.dtype}, in which nothing is summed")
    dtype = tensor.dtype if not packed else FILE_DTYPES[target.stored]
    through = None
    if floating and target.dtype is not None:
        wanted = next((target.precisions[each] for each in parameters if each in target.precisions), target.dtype)
        dtype = _file_dtype(wanted)
    if floating and target.onto == "dequantized" and not four_bits and not packed:
        trained = next((target.trained[each] for each in parameters if each in target.trained), None)
        through = _file_dtype(trained) if trained is not None and _file_dtype(trained) != tensor.dtype else None
    grid = _grid(shape, flat=any(parameter in changes.flat for parameter, _ in changed))
    windows = tuple(
        window
        for window in (_window(parameter, piece, shape, grid, changes) for parameter, piece in changed)
        if window.changes
    )
    copied = not (windows or through or four_bits or packed) and dtype == tensor.dtype
    return MergedTensor(
        name=name,
        file=tensor.file.name,
        dtype=dtype,
        shape=shape,
        grid=grid,
        source=name,
        windows=windows,
        through=through,
        four_bits=four_bits,
        turned=turned and (packed or four_bits),
        copied=copied,
        base_rows=base_rows,
    )


def _grows(parameter: str, stored: Sequence[int], changes: Changes) -> bool:
    """Whether a parameter is a base's tensor and further rows, all of which are the adapter's."""
    wanted = changes.shapes.get(parameter, ())
    if len(stored) != 2 or len(wanted) != 2 or not stored[0] < wanted[0] or stored[1] != wanted[1]:
        return False
    given = (change.indices for change in changes.by_parameter.get(parameter, []) if isinstance(change, AdapterRows))
    return set(range(stored[0], wanted[0])) <= {index for indices in given for index in indices}


def _first_whole(changed: list[tuple[str, Piece]], changes: Changes) -> Shape | None:
    """Return the shape of the adapter's tensor that replaces the whole one; None if none does."""
    if len(changed) == 1:
        first = changes.by_parameter[changed[0][0]][0]
        if isinstance(first, Whole) and _is_whole(changed[0][1]):
            return changes.file.shape(first.key)
    return None


def _is_whole(piece: Piece) -> bool:
    return piece.axes == tuple(range(len(piece.axes))) and not any(piece.begin) and not any(piece.source_begin)


def _added(
    base: StoredBase, placement: Placement, changes: Changes, target: ResolvedMerge
) -> tuple[list[MergedTensor], list[str]]:
    """Return the tensors that the base doesn't have: heads, and copies of weights that are no longer tied."""
    found: list[MergedTensor] = []
    untied: list[str] = []
    last = list(base.headers)[-1]
    tied = {name for group in changes.tied for name in group}
    for group in changes.tied:
        present = [name for name in group if name in placement.pieces]
        if not present:
            continue
        own = changes.by_parameter.get(present[0], [])
        for name in group[:]:
            given = changes.by_parameter.get(name, [])
            if given == own:
                continue
            untied.append(name)
            if name not in present:
                (piece,) = placement.pieces[present[0]]
                if not _is_whole(piece):
                    raise inexact(name, "is tied to a weight that lies in the files as a part of another")
                copy = _stored(piece.source, [(name, piece)], base, changes, target)
                found.append(replace(copy, name=name, file=last))
    for parameter in changes.by_parameter:
        if parameter not in placement.pieces and parameter not in tied and parameter not in placement.opaque:
            found.append(_new(parameter, changes, target, last))
    return found, untied


def _new(parameter: str, changes: Changes, target: ResolvedMerge, file: str) -> MergedTensor:
    """Return a tensor that comes only from the adapter."""
    whole = changes.by_parameter[parameter][0]
    assert isinstance(whole, Whole)
    shape = changes.file.shape(whole.key)
    dtype = _file_dtype(target.precisions.get(parameter, target.dtype or target.stored))
    grid = _grid(shape, flat=False)
    zeros = (0,) * len(shape)
    window = _window(parameter, Piece(parameter, zeros, shape, tuple(range(len(shape))), zeros), shape, grid, changes)
    return MergedTensor(parameter, file, dtype, shape, grid, None, (window,))


def _file_dtype(dtype: Any) -> str:
    """Return the name in files of a type of torch, or of a precision."""
    if isinstance(dtype, str):
        return FILE_DTYPES[dtype]
    # Only plans that are made with it have types of torch.
    from workers.pipelines.model.torch_tensors import FORMAT_TYPES

    return FORMAT_TYPES[dtype]


def _grid(shape: Shape, *, flat: bool) -> Grid:
    if len(shape) == 3 and not flat:
        return Grid(*shape)
    if not shape:
        return Grid(1, 1, 1)
    return Grid(1, shape[0], math.prod(shape[1:]))


def parameter_grid(parameter: str, changes: Changes) -> Grid:
    """Return a parameter as planes of rows and columns."""
    return _grid(changes.shapes[parameter], flat=parameter in changes.flat)


def _window(parameter: str, piece: Piece, shape: Shape, grid: Grid, changes: Changes) -> Window:
    """Return where in a written tensor a piece of a parameter is. Raises PipelineError if it isn't a block of it."""
    axes, flat = piece.axes, parameter in changes.flat
    given = tuple(each for each in changes.by_parameter[parameter] if _meets(each, piece))
    ends = axes[-2:] if len(axes) > 1 else axes
    if _is_whole(piece) and (len(axes) not in (1, 2, 3) or flat):
        return Window(parameter, given, 0, 0, grid.planes, 0, 0, grid.rows, grid.columns, 0, 0, turned=False)
    if flat or len(axes) > 3 or None in ends or len(axes) - axes.count(None) != len(shape):
        raise inexact(parameter, "does not lie in the base's files as one block")
    plane, parameter_plane, planes = 0, 0, 1
    if len(axes) == 3:
        parameter_plane, planes = piece.begin[0], piece.size[0]
        if axes[0] not in (None, 0):
            raise inexact(parameter, "lies in the base's files with its experts in another place")
        plane = 0 if axes[0] is None else piece.source_begin[0]
    if len(axes) == 1:
        begin = piece.source_begin[0]
        return Window(parameter, given, 0, 0, 1, begin, 0, piece.size[0], 1, piece.begin[0], 0, turned=False)
    row_axis, column_axis = (axis for axis in ends if axis is not None)
    turned = row_axis > column_axis
    row, column = sorted(axis for axis in ends if axis is not None)
    size = (piece.size[-1], piece.size[-2]) if turned else piece.size[-2:]
    # A new vocabulary has another number of rows than the base's tensor.
    rows, columns = (grid.rows, grid.columns) if _is_whole(piece) else size
    return Window(
        parameter=parameter,
        changes=given,
        plane=plane,
        parameter_plane=parameter_plane,
        planes=planes,
        row=piece.source_begin[row],
        column=piece.source_begin[column],
        rows=rows,
        columns=columns,
        parameter_row=piece.begin[-2],
        parameter_column=piece.begin[-1],
        turned=turned,
    )


def _meets(change: Change, piece: Piece) -> bool:
    """Whether a change affects a piece at all: each expert in a stack has its own."""
    if not isinstance(change, LowRank) or change.plane is None:
        return True
    inside = piece.begin[0] <= change.plane < piece.begin[0] + piece.size[0]
    blocks = zip((change.rows, change.columns), piece.begin[1:], piece.size[1:], strict=True)
    return inside and all(begin < at + size and at < begin + length for (begin, length), at, size in blocks)


def _require_complete(placement: Placement, changes: Changes) -> None:
    """Raise PipelineError ("base") if the base's files lack a parameter, or have one with another shape: a library
    would initialise it.
    """
    same = {name: group for group in changes.tied for name in group}
    for parameter, shape in changes.shapes.items():
        given = changes.by_parameter.get(parameter, [])
        if given and isinstance(given[0], Whole):
            continue
        pieces = placement.pieces.get(parameter)
        if pieces is None:
            # Some names of parameters that are computed from others are unknown.
            known = parameter in placement.opaque or (not given and (placement.opaque or placement.optional(parameter)))
            if not known and not any(name in placement.pieces for name in same.get(parameter, [])):
                raise PipelineError(
                    FailureReason.BASE,
                    f"The base's files lack {parameter}; save the base again with all of its weights.",
                )
        elif len(pieces) == 1 and _grows(parameter, pieces[0].size, changes):
            continue
        elif sum(math.prod(piece.size) for piece in pieces) != math.prod(shape) or (
            len(pieces) == 1 and pieces[0].size != shape
        ):
            said = f"{list(pieces[0].size)}" if len(pieces) == 1 else "not all of it"
            raise PipelineError(
                FailureReason.BASE,
                f"The base's files have {said} of {parameter}, and its config wants {list(shape)}; check its folder.",
            )


def _require_shapes(placement: Placement, changes: Changes) -> None:
    """Raise PipelineError if the adapter has another vocabulary, but lacks a tensor that grows with it."""
    if changes.vocabulary is None:
        return
    for parameter, shape in changes.shapes.items():
        pieces = placement.pieces.get(parameter)
        first = next(iter(changes.by_parameter.get(parameter, [])), None)
        if not pieces or len(pieces) != 1 or pieces[0].size == shape or isinstance(first, Whole):
            continue
        if not _grows(parameter, pieces[0].size, changes):
            raise PipelineError(
                FailureReason.ADAPTER,
                f"The adapter has {changes.vocabulary} tokens and not {parameter} of as many; save it again with"
                " model.save_pretrained(FOLDER, save_embedding_layers=True).",
            )
