"""Tests for a single character of an expression, each of which takes the same time however long its set is written.

>>> from sdk.formats.expression_syntax import parsed
>>> has = character_test(parsed("[a-cx]")[0])
>>> [has(letter) for letter in "bxd"]
[True, True, False]
>>> sorted(same_letters("s")), sorted(same_letters("7"))
(['S', 's', 'ſ'], ['7'])
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Set
from functools import cache, lru_cache

from sdk.formats.expression_syntax import Node

#: All letters that have case are below this.
_CASED_BELOW = 0x1E944


@lru_cache(maxsize=4096)
def same_letters(letter: str) -> tuple[str, ...]:
    """Return a letter and all letters that differ from it only in case."""
    if letter not in _cased():
        return (letter,)
    return tuple(re.findall(re.escape(letter), _cased(), re.IGNORECASE))


@cache
def _cased() -> str:
    letters = map(chr, range(_CASED_BELOW))
    return "".join(letter for letter in letters if letter.lower() != letter or letter.upper() != letter)


_CLASSES: dict[str, Callable[[str], bool]] = {
    r"\d": str.isdecimal,
    r"\D": lambda letter: not letter.isdecimal(),
    r"\s": str.isspace,
    r"\S": lambda letter: not letter.isspace(),
    r"\w": lambda letter: letter.isalnum() or letter == "_",
    r"\W": lambda letter: not letter.isalnum() and letter != "_",
}


def anything(_letter: str) -> bool:
    """Match every character."""
    return True


def character_test(node: Node, flags: Set[str] = frozenset()) -> Callable[[str], bool]:
    """Return a test for a single character."""
    if node.kind == "any":
        return anything if "s" in flags else "\n".__ne__
    has, negated = _set_test(node.items), node.is_negated
    if "i" in flags:
        return lambda letter: any(has(same) for same in same_letters(letter)) is not negated
    return (lambda letter: not has(letter)) if negated else has


def _set_test(items: Iterable[str | tuple[int, int]]) -> Callable[[str], bool]:
    """Return a test whether a character is in a set: by one look-up, one bisection, and at most one call a class."""
    letters: set[str] = set()
    ranges: list[tuple[int, int]] = []
    tests: list[Callable[[str], bool]] = []
    for item in items:
        if not isinstance(item, str):
            ranges.append(item)
        elif item in _CLASSES:
            tests.append(_CLASSES[item])
        else:
            letters.add(item)
    if not ranges and not tests:
        return letters.__contains__
    firsts: list[int] = []
    lasts: list[int] = []
    for first, last in sorted(ranges):
        if firsts and first <= lasts[-1] + 1:
            lasts[-1] = max(lasts[-1], last)
        else:
            firsts.append(first)
            lasts.append(last)

    def has(letter: str) -> bool:
        if letter in letters:
            return True
        code = ord(letter)
        at = bisect_right(firsts, code) - 1
        return (at >= 0 and code <= lasts[at]) or any(test(letter) for test in tests)

    return has
