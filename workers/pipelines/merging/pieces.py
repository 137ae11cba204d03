"""Which blocks of a model's parameters are which blocks of stored tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Piece:
    """A block of a parameter, and the block of one stored tensor with the same numbers."""

    source: str
    #: For each axis of the parameter: the block's offset and length.
    begin: Shape
    size: Shape
    #: For each axis of the parameter: the axis of the stored tensor, None if each tensor is one entry along it.
    axes: tuple[int | None, ...]
    #: For each axis of the stored tensor: the block's offset.
    source_begin: Shape


@dataclass(frozen=True)
class Placement:
    """All parameters of a model, and the tensors they are made from."""

    #: Parameter, or buffer, to its pieces.
    pieces: Mapping[str, tuple[Piece, ...]]
    #: Parameters that are computed from stored tensors in another way.
    opaque: frozenset[str]
    #: Stored tensors that no part of the model uses.
    unused: frozenset[str]
    #: Expressions for parameters that may be missing in files.
    may_lack: tuple[str, ...] = ()

    def optional(self, parameter: str) -> bool:
        """Whether files may lack a parameter."""
        return any(re.search(expression, parameter) for expression in self.may_lack)

    def of_source(self) -> dict[str, list[tuple[str, Piece]]]:
        """Return, for each stored tensor, the parameters that it is part of, and how."""
        found: dict[str, list[tuple[str, Piece]]] = {}
        for parameter, pieces in self.pieces.items():
            for piece in pieces:
                found.setdefault(piece.source, []).append((parameter, piece))
        return found
