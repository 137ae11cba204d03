"""Where on the disk each parameter of a model is, using transformers' own mapping of names and conversions of tensors.

Since release 5, names in files differ from names of modules: experts that are stored one by one become one parameter of
(experts, …, …), and fused projections are split. The library's rules are applied here only to shapes, so nothing is
loaded. Operations that do more than move numbers are not followed: such a parameter is marked, and only copied.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    Chunk,
    Concatenate,
    MergeModulelist,
    Split,
    Transpose,
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
)

from workers.pipelines.merging.pieces import Piece, Placement, Shape


@dataclass(frozen=True)
class _Symbol:
    """A tensor of which only the sources are known."""

    shape: Shape
    pieces: tuple[Piece, ...]


class _OpaqueError(Exception):
    """An operation does more than move numbers."""


def place(model: Any, stored: Mapping[str, Shape]) -> Placement:
    """Return where the parameters of a model without weights are in stored tensors with these names and shapes."""
    state = model.state_dict()
    conversions = get_model_conversion_mapping(model)
    renamings = [each for each in conversions if isinstance(each, WeightRenaming)]
    converters = [each for each in conversions if isinstance(each, WeightConverter)]
    of_pattern = {pattern: each for each in converters for pattern in each.source_patterns}
    gathered: dict[str, tuple[Any, dict[str, list[str]]]] = {}
    found: dict[str, tuple[Piece, ...]] = {}
    opaque: set[str] = set()
    unused: set[str] = set()
    # In the library's order, since an expert's index is its place in the whole list.
    for name in sorted(stored, key=dot_natural_key):
        key, pattern = rename_source_key(name, renamings, converters, model.base_model_prefix, state)
        if key not in state and name in state:
            key, pattern = rename_source_key(
                name, [], [], base_model_prefix=model.base_model_prefix, meta_state_dict=state
            )
        if key not in state:
            unused.add(name)
        elif pattern is None:
            found[key] = (_whole(name, stored[name]),)
        else:
            converter, sources = gathered.setdefault(key, (deepcopy(of_pattern[pattern]), {}))
            sources.setdefault(pattern, []).append(name)
    for key, (converter, sources) in gathered.items():
        symbols = {pattern: [_symbol(name, stored[name]) for name in names] for pattern, names in sources.items()}
        try:
            made = _converted(converter, symbols, key, model)
        except _OpaqueError:
            # Only the first of the names that this makes is ever used.
            opaque |= {key.replace(converter.target_patterns[0], target) for target in converter.target_patterns}
            continue
        found |= {name: symbol.pieces for name, symbol in made.items()}
    may_lack = tuple(getattr(model, "_keys_to_ignore_on_load_missing", None) or ())
    return Placement(found, frozenset(opaque), frozenset(unused), may_lack)


def _whole(name: str, shape: Shape) -> Piece:
    zeros = (0,) * len(shape)
    return Piece(name, zeros, shape, tuple(range(len(shape))), zeros)


def _symbol(name: str, shape: Shape) -> _Symbol:
    return _Symbol(shape, (_whole(name, shape),))


def _converted(converter: Any, symbols: dict[str, list[_Symbol]], key: str, model: Any) -> dict[str, _Symbol]:
    """Return the symbol of each parameter that a converter makes; `key` is the full name of the first. Raises _OpaqueError."""
    values: dict[str, Any] = dict(symbols)
    for operation in converter.operations:
        apply = _OPERATIONS.get(type(operation))
        if apply is None:
            raise _OpaqueError
        values = apply(operation, values, converter.source_patterns, converter.target_patterns, key, model)
    full = key.replace("*.", "0.")
    part = next((pattern for pattern in values if pattern in full), None)
    if part is None:
        return {name: _one(value) for name, value in values.items()}
    prefix, _, suffix = full.partition(part)
    return {f"{prefix}{name}{suffix}": _one(value) for name, value in values.items()}


def _one(value: Any) -> _Symbol:
    if isinstance(value, list):
        if len(value) != 1:
            raise _OpaqueError
        return _one(value[0])
    return value  # type: ignore[no-any-return]


def _only(values: Mapping[str, Any]) -> _Symbol:
    if len(values) != 1:
        raise _OpaqueError
    (value,) = values.values()
    return _one(value[0] if isinstance(value, list) else value)


def _cut(symbol: _Symbol, axis: int, begin: int, length: int) -> _Symbol:
    """Return the part of a symbol that begins at `begin` along an axis."""
    pieces = []
    for piece in symbol.pieces:
        first, last = max(begin, piece.begin[axis]), min(begin + length, piece.begin[axis] + piece.size[axis])
        if first >= last:
            continue
        source_begin = list(piece.source_begin)
        if (own := piece.axes[axis]) is not None:
            source_begin[own] += first - piece.begin[axis]
        pieces.append(
            replace(
                piece,
                begin=_put(piece.begin, axis, first - begin),
                size=_put(piece.size, axis, last - first),
                source_begin=tuple(source_begin),
            )
        )
    return _Symbol(_put(symbol.shape, axis, length), tuple(pieces))


def _put(values: Sequence[int], at: int, value: int) -> Shape:
    return (*values[:at], value, *values[at + 1 :])


def _chunk(
    operation: Chunk, values: dict[str, Any], sources: list[str], targets: list[str], key: str, model: Any
) -> dict[str, Any]:
    symbol, names = _only(values), operation.get_target_patterns(targets, config=model.config)
    axis, whole = operation.dim % len(symbol.shape), symbol.shape[operation.dim]
    # As in torch.chunk, whose last part may be shorter.
    step = math.ceil(whole / len(names))
    return {name: _cut(symbol, axis, n * step, min(step, whole - n * step)) for n, name in enumerate(names)}


def _split(
    operation: Split, values: dict[str, Any], sources: list[str], targets: list[str], key: str, model: Any
) -> dict[str, Any]:
    symbol, made, begin = _only(values), {}, 0
    axis = operation.dim % len(symbol.shape)
    for target in targets:
        length = int(model.get_parameter(key.replace(targets[0], target)).shape[axis])
        made[target] = _cut(symbol, axis, begin, length)
        begin += length
    return made


def _concatenate(
    operation: Concatenate, values: dict[str, Any], sources: list[str], targets: list[str], key: str, model: Any
) -> dict[str, Any]:
    if len(targets) != 1:
        raise _OpaqueError
    listed = (values[source] for source in sources if source in values)
    symbols = [each for value in listed for each in (value if isinstance(value, list) else [value])]
    return {targets[0]: _joined(symbols, operation.dim % len(symbols[0].shape))}


def _joined(symbols: Iterable[_Symbol], axis: int) -> _Symbol:
    pieces: list[Piece] = []
    length, shape = 0, tuple[int, ...]()
    for symbol in symbols:
        pieces += [replace(each, begin=_put(each.begin, axis, each.begin[axis] + length)) for each in symbol.pieces]
        length += symbol.shape[axis]
        shape = symbol.shape
    return _Symbol(_put(shape, axis, length), tuple(pieces))


def _merge_list(
    operation: MergeModulelist, values: dict[str, Any], sources: list[str], targets: list[str], key: str, model: Any
) -> dict[str, Any]:
    if len(values) == 1 and len(targets) != 1:
        raise _OpaqueError
    return {
        (targets[0] if len(values) == 1 else source): _joined(
            (_stacked(each, operation.dim) for each in (value if isinstance(value, list) else [value])), operation.dim
        )
        for source, value in values.items()
    }


def _stacked(symbol: _Symbol, axis: int) -> _Symbol:
    """Return a symbol with an additional axis of length 1."""

    def widened(values: Sequence[Any], value: Any) -> tuple[Any, ...]:
        return (*values[:axis], value, *values[axis:])

    return _Symbol(
        widened(symbol.shape, 1),
        tuple(
            replace(each, begin=widened(each.begin, 0), size=widened(each.size, 1), axes=widened(each.axes, None))
            for each in symbol.pieces
        ),
    )


def _transpose(
    operation: Transpose, values: dict[str, Any], sources: list[str], targets: list[str], key: str, model: Any
) -> dict[str, Any]:
    symbol = _only(values)
    target = sources[0] if len(targets) > 1 else targets[0]
    if operation.check_dims and symbol.shape == tuple(model.get_parameter(key).shape):
        return {target: symbol}
    one, other = (axis % len(symbol.shape) for axis in (operation.dim0, operation.dim1))

    def swapped(values: Sequence[Any]) -> tuple[Any, ...]:
        found = list(values)
        found[one], found[other] = found[other], found[one]
        return tuple(found)

    pieces = (
        replace(each, begin=swapped(each.begin), size=swapped(each.size), axes=swapped(each.axes))
        for each in symbol.pieces
    )
    return {target: _Symbol(swapped(symbol.shape), tuple(pieces))}


_OPERATIONS: dict[type, Callable[..., dict[str, Any]]] = {
    Chunk: _chunk,
    Split: _split,
    Concatenate: _concatenate,
    MergeModulelist: _merge_list,
    Transpose: _transpose,
}


def tied_groups(model: Any) -> Iterator[list[str]]:
    """Yield groups of names of the same parameter, in the model's order."""
    groups: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(name)
    return (names for names in groups.values() if len(names) > 1)
