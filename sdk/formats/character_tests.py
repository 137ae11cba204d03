"""Tests for a single character of an expression, each of which takes the same time however long its set is written.

>>> from sdk.formats.expression_syntax import parsed
>>> has = character_test(parsed("[a-cx]")[0])
>>> [has(letter) for letter in "bxd"]
[True, True, False]
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable
from typing import Any

from sdk.formats.expression_syntax import ExpressionError, Node
from sdk.formats.letter_case import same_letters

from re import _constants as _re  # type: ignore[attr-defined]  # isort: skip

#: The operations that match exactly one character.
ONE_CHARACTER = (_re.LITERAL, _re.NOT_LITERAL, _re.ANY, _re.IN)

_CATEGORIES: dict[Any, Callable[[str], bool]] = {
    _re.CATEGORY_DIGIT: str.isdecimal,
    _re.CATEGORY_SPACE: str.isspace,
    _re.CATEGORY_WORD: lambda letter: letter.isalnum() or letter == "_",
}
_NOT_CATEGORIES = {
    _re.CATEGORY_NOT_DIGIT: _re.CATEGORY_DIGIT,
    _re.CATEGORY_NOT_SPACE: _re.CATEGORY_SPACE,
    _re.CATEGORY_NOT_WORD: _re.CATEGORY_WORD,
}


def anything(_letter: str) -> bool:
    """Match every character."""
    return True


def character_test(node: Node, flags: int = 0) -> Callable[[str], bool]:
    """Return a test for a single character. Raises ExpressionError."""
    op, argument = node
    if op is _re.ANY:
        return anything if flags & re.DOTALL else "\n".__ne__
    negated = op is _re.NOT_LITERAL
    if op is _re.IN:
        negated = bool(argument) and argument[0][0] is _re.NEGATE
        has = _set_test(argument[negated:])
    else:
        has = chr(argument).__eq__
    if flags & re.IGNORECASE:
        return lambda letter: any(has(same) for same in same_letters(letter)) is not negated
    return (lambda letter: not has(letter)) if negated else has


def _set_test(parts: Iterable[Node]) -> Callable[[str], bool]:
    """Return a test whether a character is in a set: by one look-up, one bisection, and at most one call a category."""
    letters: set[str] = set()
    ranges: list[tuple[int, int]] = []
    categories: dict[Any, Callable[[str], bool]] = {}
    for kind, value in parts:
        if kind is _re.LITERAL:
            letters.add(chr(value))
        elif kind is _re.RANGE:
            ranges.append(value)
        elif kind is _re.CATEGORY:
            categories[value] = _category_test(value)
        else:
            raise ExpressionError("it uses rare syntax")
    tests = list(categories.values())
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


def _category_test(value: Any) -> Callable[[str], bool]:
    if value in _CATEGORIES:
        return _CATEGORIES[value]
    if value in _NOT_CATEGORIES:
        other = _CATEGORIES[_NOT_CATEGORIES[value]]
        return lambda letter: not other(letter)
    raise ExpressionError("it uses rare syntax")
