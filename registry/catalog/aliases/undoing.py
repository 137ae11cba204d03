"""What an alias named before its last move.

It follows from the moves that are on record:

>>> named_before([Moved("set", None, 1), Moved("set", 1, 2), Moved("rollback", 2, 1), Moved("set", 1, 3)])
1
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Moved(NamedTuple):
    """One move, of the kind "set", "rollback" or "remove"; None: the alias named nothing."""

    kind: str
    from_number: int | None
    to_number: int | None


def named_before(moves: Sequence[Moved]) -> int | None:
    """Return the number that an alias named before its last move; moves that were undone don't count.

    Of what was before the first of these moves, only what that one replaced is known. None: it named nothing before, or
    nothing that is known.
    """
    stack: list[int | None] = [moves[0].from_number]
    for move in moves:
        if move.kind == "rollback":
            _take_last(stack)
            stack = stack or [move.to_number]
        elif not stack or stack[-1] != move.to_number:
            stack.append(move.to_number)
    _take_last(stack)
    return stack[-1] if stack else None


def _take_last(stack: list[int | None]) -> None:
    """Go back to the version before the last move; times when the alias named nothing are skipped."""
    if stack:
        stack.pop()
    while stack and stack[-1] is None:
        stack.pop()
