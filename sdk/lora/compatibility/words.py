r"""Paths as words of a shell, and back; the names of several things.

>>> quoted("./a b"), quoted("./x\x1b[31m"), unquoted(quoted("./a b"))
("'./a b'", "$'./x\\x1b[31m'", './a b')
"""

from __future__ import annotations

import ast
import shlex
from collections.abc import Iterable, Sequence


def quoted(text: str) -> str:
    """Return `text` as one word of a shell, safe to show in a terminal: control characters are escaped."""
    if text.isprintable():
        return shlex.quote(text)
    return f"$'{''.join(map(_escaped, text))}'"


def unquoted(word: str) -> str:
    """Return the text that a word stands for."""
    if word.startswith("$'"):
        return str(ast.literal_eval(word[1:]))
    return shlex.split(word)[0]


def named(names: Iterable[object], most: int = 3) -> str:
    """Return the first few names, and how many more there are."""
    listed: Sequence[str] = sorted(map(str, names))
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


def _escaped(letter: str) -> str:
    if letter.isprintable() and letter not in "'\\":
        return letter
    number = ord(letter)
    if 0xDC80 <= number <= 0xDCFF:
        # A byte of a name that isn't UTF-8.
        return f"\\x{number - 0xDC00:02x}"
    return f"\\x{number:02x}" if number < 0x80 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
