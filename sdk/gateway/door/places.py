"""Places for requests that run at the same time, shared so that no caller takes all of them.

A caller gets one more place while they have fewer than are free: the only one gets half of them, and each further one half of what the
others left. Nothing is reserved for anybody, and nobody is known beforehand (dynamic thresholds: Choudhury and Hahn, IEEE/ACM
Transactions on Networking 6(2), 1998, with alpha 1).

>>> places = SharedPlaces(8)
>>> [places.take(who) for who in ("a", "a", "a", "a", "a", "b", "b", "b")]
[True, True, True, True, False, True, True, False]
>>> places.give_back("a")
>>> places.take("b"), places.take("b")
(True, False)
"""

from __future__ import annotations

from collections import Counter


class SharedPlaces:
    """So many; those who have none are not remembered."""

    def __init__(self, most: int) -> None:
        self._free = most
        self._taken: Counter[str] = Counter()

    def take(self, caller: str) -> bool:
        """Take one for a caller; return whether there was one for them."""
        if self._taken[caller] >= self._free:
            if not self._taken[caller]:
                del self._taken[caller]
            return False
        self._free -= 1
        self._taken[caller] += 1
        return True

    def give_back(self, caller: str) -> None:
        """Give one of a caller's back."""
        self._free += 1
        self._taken[caller] -= 1
        if not self._taken[caller]:
            del self._taken[caller]
