"""A history that fails made shorter: what can be left out of it while it still fails is left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

ItemT = TypeVar("ItemT")


def shrink(items: Sequence[ItemT], fails: Callable[[list[ItemT]], bool], *, most: int) -> list[ItemT]:
    """Return a part of `items` that fails still and, unless `fails` was asked `most` times before, no item of which can go.

    >>> shrink(range(20), lambda left: {3, 17} <= set(left), most=100)
    [3, 17]
    """
    left = list(items)
    chunk = len(left) // 2
    while chunk:
        at, went = 0, False
        while at < len(left) and most > 0:
            shorter = left[:at] + left[at + chunk :]
            most -= 1
            if fails(shorter):
                left, went = shorter, True
            else:
                at += chunk
        if most <= 0:
            break
        # What could not go at first may go once others are gone.
        chunk = chunk if went and chunk == 1 else chunk // 2
    return left
