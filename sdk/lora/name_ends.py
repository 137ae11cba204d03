"""Dotted names of modules, found by their last parts as PEFT reads a list of targets, without looking at each name.

>>> ends = NameEnds(["layers.0.q_proj", "layers.1.q_proj", "layers.1.qq_proj"])
>>> sorted(ends.meant_by(["q_proj"])), ends.has("proj"), ends.count("1.q_proj")
(['layers.0.q_proj', 'layers.1.q_proj'], False, 1)
>>> ends.ending_in("1.qq_proj"), ends.count_ending_in("q_proj")
(['layers.1.qq_proj'], 3)
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from itertools import islice

from sdk.formats.peft_patterns import suffixes


class NameEnds:
    """Names by their ends.

    An end means the name that it is, and all names in which it follows a dot. The index is the names themselves, written
    backwards and sorted, so it is as large as the names are, and names with the same end are next to each other.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(names)
        self._backwards = sorted(name[::-1] for name in self._names)

    def has(self, end: str) -> bool:
        """Whether an end means any of the names."""
        return self.count(end) > 0

    def count(self, end: str) -> int:
        """Return how many of the names an end means."""
        return (end in self._names) + self.count_ending_in(f".{end}")

    def meant_by(self, ends: Iterable[str]) -> set[str]:
        """Return the names that any of several ends means."""
        wanted = set(ends)
        found = set(self._names & wanted)
        for end in wanted:
            # What a shorter end means already isn't listed again: all steps together are as many as there are names.
            if wanted.isdisjoint(islice(suffixes(end), 1, None)):
                found.update(self.ending_in(f".{end}"))
        return found

    def count_ending_in(self, letters: str) -> int:
        """Return how many of the names end in these letters."""
        first, after = self._range(letters)
        return after - first

    def ending_in(self, letters: str) -> list[str]:
        """Return the names that end in these letters."""
        first, after = self._range(letters)
        return [name[::-1] for name in self._backwards[first:after]]

    def _range(self, letters: str) -> tuple[int, int]:
        sought, length = letters[::-1], len(letters)
        first = bisect_left(self._backwards, sought)
        return first, bisect_right(self._backwards, sought, lo=first, key=lambda name: name[:length])
