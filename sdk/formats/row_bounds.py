"""How large a line, a text and a row of a data file may be: beyond that no program reads them, wherever it runs.

Also how faults of a row are called.

>>> within({"prompt": "a", "completion": "b"}, size_bytes=31)
{'prompt': 'a', 'completion': 'b'}
>>> within(dict.fromkeys(map(str, range(1001))), size_bytes=9000)
Traceback (most recent call last):
ValueError: has 1001 keys, and a row may have 1,000; leave out what is not needed
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Any, AnyStr

#: The longest line, which is also the most that one row may have.
MOST_LINE_BYTES = 16 * 1024 * 1024
#: The longest text in a row.
MOST_TEXT_BYTES = 8 * 1024 * 1024
#: The most columns of a file, and the most keys of a row.
MOST_KEYS = 1000
#: How many rows are scored at most: of one target, and of all targets of one job together.
MOST_TARGET_ROWS, MOST_JOB_ROWS = 1_000_000, 4_000_000
#: The rest of a sentence about a row.
LONG_ROW = f"has more than {MOST_LINE_BYTES >> 20} MiB, the most that a row may have; divide or shorten it"
_LONG_TEXT = f"has a text of more than {MOST_TEXT_BYTES >> 20} MiB, the most that a text may have; divide or shorten it"
#: How much of a line that is too long is read at once, to find its end.
_SKIPPED = 1 << 20


def bounded_lines(file: IO[AnyStr]) -> Iterator[AnyStr | None]:
    """Yield the lines of a file; None stands for one that is longer than `MOST_LINE_BYTES`, in bytes or characters.

    No more than that is in memory of any line.
    """
    while line := file.readline(MOST_LINE_BYTES + 1):
        if len(line) <= MOST_LINE_BYTES:
            yield line
            continue
        while line and line[-1:] not in ("\n", b"\n"):
            line = file.readline(_SKIPPED)
        yield None


def within(value: Any, *, size_bytes: int) -> Any:
    """Return a row's value that takes this much of its file. Raises ValueError, with the rest of a sentence, if it has
    too many keys or a text that is too long.
    """
    if isinstance(value, dict) and len(value) > MOST_KEYS:
        raise ValueError(f"has {len(value)} keys, and a row may have {MOST_KEYS:,}; leave out what is not needed")
    # No text is longer than what it is written in.
    if size_bytes > MOST_TEXT_BYTES and _has_long_text(value):
        raise ValueError(_LONG_TEXT)
    return value


def is_long(text: str) -> bool:
    """Whether a text is longer than a text of a row may be."""
    # A character takes at most four bytes.
    return len(text) > MOST_TEXT_BYTES // 4 and len(text.encode("utf-8", "surrogatepass")) > MOST_TEXT_BYTES


def _has_long_text(value: Any) -> bool:
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, str):
            if is_long(one):
                return True
        elif isinstance(one, dict):
            left += [inner for pair in one.items() for inner in pair]
        elif isinstance(one, list):
            left += one
    return False


class EmptyField(ValueError):  # noqa: N818 - a fault of a row, as the other ValueErrors of rows are
    """A row has nothing under a key that it needs; the message is the rest of a sentence about the row."""


_KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a decimal number",
    str: "a text",
    list: "a list",
    dict: "an object",
}


def kind_of(value: object) -> str:
    """Return what a value of a row is, in words.

    >>> kind_of(7), kind_of(None)
    ('a whole number', 'null')
    """
    return "null" if value is None else _KINDS.get(type(value), "something else")
