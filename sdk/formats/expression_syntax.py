r"""Reads untrusted regular expressions as the library's own parser does, within bounds, and tries none of them.

>>> len(parsed(r"layers\.\d+"))
8
>>> parsed("(" * 40 + "a" + ")" * 40)
Traceback (most recent call last):
sdk.formats.expression_syntax.ExpressionError: its groups are nested too deeply
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

# The library's own parser, so that expressions mean here what they mean to `re`: its public name raises a warning.
from re import _constants as _re  # type: ignore[attr-defined]  # isort: skip
from re import _parser  # type: ignore[attr-defined]  # isort: skip

#: No expression in a configuration comes near this.
MAX_CHARACTERS = 1000
#: The deepest nesting of groups, alternatives and repetitions. Whoever walks through what `parsed` returned may recurse.
MAX_DEPTH = 30

#: The operation, one of the library's constants, and its argument.
Node = tuple[Any, Any]


class ExpressionError(ValueError):
    """The text isn't an expression, or isn't of the required kind; the message says why, to follow "because"."""


def parsed(expression: str) -> list[Node]:
    """Return an expression as the library's parser reads it, without flags. Raises ExpressionError."""
    nodes, flags = parsed_with_flags(expression)
    if flags:
        raise ExpressionError("it sets flags")
    return nodes


@lru_cache(maxsize=64)
def parsed_with_flags(expression: str) -> tuple[list[Node], int]:
    """Return a parsed expression with the flags that it sets. Raises ExpressionError."""
    if len(expression) > MAX_CHARACTERS:
        raise ExpressionError(f"it is longer than {MAX_CHARACTERS} characters")
    if _nests_sets(expression):
        raise ExpressionError("it seems to nest character sets")
    try:
        found = _parser.parse(expression)
    except (re.error, OverflowError, RecursionError) as error:
        raise ExpressionError("it is not a regular expression") from error
    nodes = list(found)
    _require_flat(nodes)
    return nodes, found.state.flags & ~re.UNICODE


def group_of(argument: Any) -> list[Node]:
    """Return what is in a group. Raises ExpressionError for one that sets flags."""
    _, added, removed, body = argument
    if added or removed:
        raise ExpressionError("it sets flags")
    return list(body)


def _require_flat(nodes: Iterable[Node]) -> None:
    """Raise ExpressionError if groups are nested too deeply; this does not recurse itself."""
    waiting = [(nodes, 0)]
    while waiting:
        inside, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise ExpressionError("its groups are nested too deeply")
        waiting.extend((part, depth + 1) for op, argument in inside for part in _parts(op, argument))


def _parts(op: Any, argument: Any) -> Iterator[Iterable[Node]]:
    """Yield the sequences that are directly inside a node."""
    if op is _re.SUBPATTERN:
        yield argument[3]
    elif op is _re.BRANCH:
        yield from argument[1]
    elif op in (_re.MAX_REPEAT, _re.MIN_REPEAT, _re.POSSESSIVE_REPEAT):
        yield argument[2]
    elif op in (_re.ASSERT, _re.ASSERT_NOT):
        yield argument[1]
    elif op is _re.ATOMIC_GROUP:
        yield argument
    elif op is _re.GROUPREF_EXISTS:
        yield from (part for part in argument[1:] if part is not None)


def _nests_sets(expression: str) -> bool:
    """Whether `re` would warn that a set may change its meaning in future: "[[", or "--", "&&", "~~" or "||" in a set."""
    inside = empty = False
    before = ""
    letters = iter(expression)
    for letter in letters:
        if letter == "\\":
            next(letters, None)
            before, empty = "", False
        elif not inside:
            inside = empty = letter == "["
            before = ""
        elif letter == "[" or (letter in "-&~|" and letter == before):
            return True
        elif letter == "]" and not empty:
            inside = False
        else:
            # A bracket in first place, or after ^, does not close the set.
            empty = empty and letter == "^" and before == ""
            before = letter
    return False
