"""What members scored on each held-out row, of those that were scored on the same ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.sweeps.models import Member

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]
    Numbers = npt.NDArray[np.float32]

#: Weights that differ by a smaller share are the same, as 32-bit numbers have them.
_OF_WEIGHTS = 1e-5

#: Rows of so many members are in memory as they are stored.
_AT_ONCE = 50

#: Yields the numbers of members, in their order, with what they handed in by a name: "row_losses" or "row_weights".
ReadRows = Callable[[str, Sequence[int]], Iterable[tuple[int, bytes]]]


class MemberRows(NamedTuple):
    """What members scored on the same rows."""

    #: The numbers of the members, ascending.
    numbers: Sequence[int]
    #: (members, rows) Σ score · weight of each row, or group of rows.
    sums: Numbers | Floats
    #: (rows,) Σ weight.
    masses: Floats
    #: What readers should know about them, in sentences.
    notes: list[str]


def stored_rows(session: Session, sweep_id: str, name: str, numbers: Sequence[int]) -> Iterator[tuple[int, bytes]]:
    """Read what members handed in, as `ReadRows` says, few at once."""
    of_sweep = select(Member.number, getattr(Member, name)).where(Member.sweep == sweep_id).order_by(Member.number)
    for first in range(0, len(numbers), _AT_ONCE):
        some = Member.number.in_(numbers[first : first + _AT_ONCE])
        yield from ((number, raw) for number, raw in session.execute(of_sweep.where(some)))


def same_rows(numbers: Sequence[int], read: ReadRows) -> MemberRows:
    """Return the losses of those members whose rows weigh what those of most do; of as many, of the first."""
    import numpy as np

    groups: list[tuple[Numbers, list[int]]] = []
    for number, raw in read("row_weights", numbers):
        weights = np.frombuffer(raw, dtype="<f4")
        alike = next((those for known, those in groups if _same(known, weights)), None)
        if alike is None:
            groups.append((weights, [number]))
        else:
            alike.append(number)
    masses, alike = max(groups, key=lambda group: len(group[1]))
    sums = np.empty((len(alike), len(masses)), dtype=np.float32)
    for place, (_, raw) in enumerate(read("row_losses", alike)):
        sums[place] = np.frombuffer(raw, dtype="<f4")
    others = [number for number in numbers if number not in alike]
    return MemberRows(alike, sums, masses.astype(np.float64), [_on_others(others)] if others else [])


def _same(known: Numbers, weights: Numbers) -> bool:
    import numpy as np

    return known.shape == weights.shape and np.allclose(known, weights, rtol=_OF_WEIGHTS, atol=0.0)


def _on_others(numbers: Sequence[int]) -> str:
    if len(numbers) == 1:
        return f"member {numbers[0]} was scored on other held-out tokens, so it can't be compared"
    return f"members {', '.join(map(str, numbers))} were scored on other held-out tokens, so they can't be compared"
