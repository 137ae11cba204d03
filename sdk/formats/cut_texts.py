"""Texts as they can be stored: without NUL, and within a number of bytes that they may take together as JSON. The longest are
cut, and marked at their end.

>>> longest_that_fit([2, 30, 40], 42), longest_that_fit([2, 30], 42)
(20, None)
>>> cut_text("a" * 30, 20)
'aaaaaaaaaa … [cut]'
"""

from __future__ import annotations

import json
from collections.abc import Sequence

#: The mark at the end of a cut text.
CUT = " … [cut]"
_CUT_BYTES = len(CUT.encode())


def storable(text: str) -> str:
    """Return a text as a database can store it: a model may write any character, also NUL, and that is replaced.

    >>> storable("a\\0b") == "a\\ufffdb"
    True
    """
    return text.replace("\0", "\ufffd")


def longest_that_fit(sizes: Sequence[int], most_bytes: int) -> int | None:
    """How long each text may be so that all fit; None if they fit as they are."""
    left_bytes = most_bytes
    for done, size in enumerate(ordered := sorted(sizes)):
        share = left_bytes // (len(ordered) - done)
        if size > share:
            return share
        left_bytes -= size
    return None


def cut_text(text: str, longest: int) -> str:
    """Return the text, or as much of its beginning as fits `longest` bytes together with the mark."""
    if json_bytes(text) <= longest:
        return text
    room = longest - _CUT_BYTES
    # Every character takes at least a byte, so no more of them fit.
    fits, too_many = 0, max(room, 0) + 1
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        if json_bytes(text[:middle]) <= room:
            fits = middle
        else:
            too_many = middle
    return text[:fits] + CUT


def json_bytes(text: str) -> int:
    """How many bytes a text takes in a body, between its quotes."""
    return len(json.dumps(text, ensure_ascii=False).encode()) - 2
