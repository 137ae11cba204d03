"""What an adapter does to each parameter of a base."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from sdk.schemas.failures import FailureReason
from workers.pipelines.errors import PipelineError
from workers.pipelines.merging.stored_base import StoredBase

Range = tuple[int, int, int]


class Factor(NamedTuple):
    """A view of one of an adapter's tensors as a matrix: rows and columns as (start, stop, step)."""

    key: str
    rows: Range
    columns: Range


@dataclass(frozen=True)
class Whole:
    """The parameter is the adapter's tensor."""

    key: str


@dataclass(frozen=True)
class LowRank:
    """s·B·A is added to a block of a parameter, and if there are magnitudes, each output is scaled to its own."""

    #: The adapted module's name in the adapter's tensors.
    module: str
    #: The expert in a parameter of (experts, …, …); None for a matrix.
    plane: int | None
    #: The block's offsets and lengths in the parameter.
    rows: tuple[int, int]
    columns: tuple[int, int]
    #: (out, r) and (r, in).
    b: Factor
    a: Factor
    scale: float
    #: Whether the parameter stores its weight as (in, out), so that the transpose of B·A is added.
    across: bool
    #: DoRA's magnitudes, (out), by their key.
    magnitude: str | None = None


@dataclass(frozen=True)
class Shift:
    """s·b is added to a bias."""

    key: str
    scale: float


@dataclass(frozen=True)
class AdapterRows:
    """Some rows of the parameter are the adapter's."""

    key: str
    indices: tuple[int, ...]


Change = Whole | LowRank | Shift | AdapterRows


@dataclass
class Changes:
    """What an adapter does to a base."""

    #: The adapter's own file.
    file: StoredBase
    #: The model without weights, before PEFT added the adapter.
    shapes: Mapping[str, tuple[int, ...]]
    #: Names of the same parameter; the first is the model's own.
    tied: list[list[str]]
    #: Parameter to its changes, in the order in which they are applied.
    by_parameter: dict[str, list[Change]] = field(default_factory=dict)
    #: Parameters of convolutions, whose kernel is flattened.
    flat: set[str] = field(default_factory=set)
    #: Rows of the vocabulary, if the adapter has another number than the base.
    vocabulary: int | None = None

    def add(self, parameter: str, change: Change) -> None:
        """Append a change to a parameter's changes."""
        self.by_parameter.setdefault(parameter, []).append(change)


def low_rank(changes: Iterable[Change]) -> Iterator[LowRank]:
    """Yield the changes that add a product of two matrices."""
    return (change for change in changes if isinstance(change, LowRank))


def inexact(name: str, said: str) -> PipelineError:
    """Return the error for a module that can't be merged exactly; the reason is a clause."""
    return PipelineError(
        FailureReason.ADAPTER,
        f"The adapter can't be merged exactly: {name} {said}; serve the adapter on its base, or leave that module out of it.",
    )
