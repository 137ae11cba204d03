"""‖ΔW‖ by layer and module, as a map of cells: columns are layers, rows are the modules that layers have.

>>> norms = {f"model.layers.{layer}.self_attn.{name}_proj": 0.5 + layer for layer in range(2) for name in "qv"}
>>> found = heat_map(norms)
>>> found.rows, found.layers, found.most
(('self_attn.q_proj', 'self_attn.v_proj'), ('0', '1'), 1.5)
>>> [(cell.row, cell.column, cell.step) for cell in found.cells]
[(0, 0, 3), (0, 1, 8), (1, 0, 3), (1, 1, 8)]
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

#: How many rows and columns a map has; of more layers several are one column.
MOST_ROWS, MOST_LAYERS = 48, 64
#: How many cells have their value as a title; of more, the table has them.
MOST_TITLED = 800
#: Steps of the scale beside 0.
STEPS = 8
#: Characters of a row's name.
_NAME = 44
#: The first number in a module's name is its layer; later ones are those of experts.
_LAYER = re.compile(r"^(?P<before>.*?)\.?(?P<layer>[0-9]{1,6})\.(?P<after>.+)$", re.S)
_NUMBER = re.compile(r"(?<=\.)[0-9]{1,6}(?=\.|$)")


@dataclass(frozen=True)
class HeatCell:
    """The norm of the modules that are together in one cell: the root of the sum of squares."""

    row: int
    column: int
    norm: float
    modules: int

    #: From 0, nothing, to STEPS, the largest.
    step: int


@dataclass(frozen=True)
class HeatMap:
    """What is drawn."""

    rows: tuple[str, ...]
    #: The labels of the columns: "7", or "8–11"; "" is the column of modules outside layers.
    layers: tuple[str, ...]
    cells: tuple[HeatCell, ...]
    most: float
    #: Modules whose norm can't be computed, and those of rows that there was no room for.
    unknown: int
    left_out: int
    #: Whether any cell is of several modules.
    grouped: bool


def heat_map(norms: Mapping[str, float | None]) -> HeatMap | None:
    """Return the map of the norms of modules, by name; None if none is known."""
    known = {name: norm for name, norm in norms.items() if norm is not None and math.isfinite(norm)}
    if not known:
        return None
    placed = {name: _place(name) for name in known}
    layers = sorted({layer for layer, _ in placed.values() if layer is not None})
    width = math.ceil(len(layers) / MOST_LAYERS) if layers else 1
    columns = {layer: at // width for at, layer in enumerate(layers)}
    labels = [_span(layers[at : at + width]) for at in range(0, len(layers), width)]
    outside = len(labels) if any(layer is None for layer, _ in placed.values()) else None
    squares: dict[tuple[str, int], tuple[float, int]] = {}
    by_row: dict[str, float] = {}
    for name, norm in known.items():
        layer, row = placed[name]
        column = columns[layer] if layer is not None else outside or 0
        total, modules = squares.get((row, column), (0.0, 0))
        squares[row, column] = (math.hypot(total, norm), modules + 1)
        by_row[row] = max(by_row.get(row, 0.0), norm)
    # The rows with the largest changes, in the order of names.
    shown = sorted(sorted(by_row, key=lambda row: (-by_row[row], row))[:MOST_ROWS])
    places = {row: at for at, row in enumerate(shown)}
    there = {key: value for key, value in squares.items() if key[0] in places}
    most = max(norm for norm, _ in there.values())
    cells = [
        HeatCell(places[row], column, norm, modules, math.ceil(STEPS * norm / most) if most > 0 else 0)
        for (row, column), (norm, modules) in there.items()
    ]
    return HeatMap(
        rows=tuple(row if len(row) <= _NAME else f"…{row[1 - _NAME :]}" for row in shown),
        layers=tuple(labels if outside is None else [*labels, ""]),
        cells=tuple(sorted(cells, key=lambda cell: (cell.row, cell.column))),
        most=most,
        unknown=len(norms) - len(known),
        left_out=len(known) - sum(cell.modules for cell in cells),
        grouped=any(cell.modules > 1 for cell in cells),
    )


def _place(name: str) -> tuple[int | None, str]:
    """The layer of a module, and what it is called in each layer; experts are together."""
    found = _LAYER.match(name)
    if found is None:
        return None, _NUMBER.sub("*", name)
    return int(found["layer"]), _NUMBER.sub("*", f".{found['after']}")[1:]


def _span(layers: list[int]) -> str:
    return str(layers[0]) if len(layers) == 1 else f"{layers[0]}–{layers[-1]}"
