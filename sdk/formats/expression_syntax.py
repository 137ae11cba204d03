r"""Reads untrusted regular expressions, in the syntax of `re` and with its meaning, within bounds; it tries none of them.

>>> [node.kind for node in parsed(r"(\d+|b)?$")]
['repeat', '$']
>>> parsed("(" * 40 + "a" + ")" * 40)
Traceback (most recent call last):
sdk.formats.expression_syntax.ExpressionError: its groups are nested too deeply
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

#: No expression in a configuration comes near this.
MAX_CHARACTERS = 1000
#: The deepest nesting of groups, alternatives and repetitions. Whoever walks through what `parsed` returned may recurse.
MAX_DEPTH = 30
#: The kinds of nodes that match exactly one character.
ONE_CHARACTER = ("set", "any")
#: `re` has no higher counts.
_COUNTS_BELOW = 2**32 - 1

_ESCAPE = r"\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|N\{[^}]+\}|OCTAL|.)"
_TOKEN = re.compile(
    _ESCAPE.replace("OCTAL", "0[0-7]{0,2}|[1-7][0-7]{2}") + r"|\[\^?+\]?+(?:[^]\\]|\\.)*+\]"
    r"|\(\?#[^)]*\)|\(\?[a-zA-Z-]+[:)]|\(\?P<[^>]*>|\(\?[:=!]|\(\??"
    r"|(?:[*+?]|\{(?:[0-9]+(?:,[0-9]*)?|,[0-9]*)\})[?+]?|.",
    re.DOTALL,
)
_ONE_OF_SET = "(" + _ESCAPE.replace("OCTAL", "[0-7]{1,3}") + "|.)"
_PART_OF_SET = re.compile(f"{_ONE_OF_SET}(?:-{_ONE_OF_SET})?", re.DOTALL)
_REPEAT = re.compile(r"(?:([*+?])|\{([0-9]*)(,?)([0-9]*)\})([?+]?)")
_CLASSES = (r"\d", r"\D", r"\s", r"\S", r"\w", r"\W")
_PLACES = {"^": "^", "$": "$", r"\A": "A", r"\Z": "Z", r"\b": "b", r"\B": "B"}
_CONTROLS = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_BAD: Final = "it is not a regular expression"
_RARE: Final = "it looks back, refers back, or uses rare syntax"


class ExpressionError(ValueError):
    """The text isn't an expression, or isn't of the required kind; the message says why, to follow "because"."""


class Node(NamedTuple):
    """A part of an expression."""

    #: "set" or "any" (one character); a place ("^", "$", "A", "Z", "b", "B"); "or", which a group is, too; "repeat";
    #: "ahead", "not ahead".
    kind: str
    #: The sequences directly inside.
    parts: tuple[tuple[Node, ...], ...] = ()
    #: A set's characters, ranges of codes, and classes such as "\\d".
    items: tuple[str | tuple[int, int], ...] = ()
    is_negated: bool = False
    #: How often it is repeated; None: as often as one likes.
    least: int = 1
    most: int | None = 1
    can_be_empty: bool = False


def parsed(expression: str) -> Sequence[Node]:
    """Return the nodes of an expression without flags. Raises ExpressionError."""
    nodes, flags = parsed_with_flags(expression)
    if flags:
        raise ExpressionError("it sets flags")
    return nodes


@lru_cache(maxsize=64)
def parsed_with_flags(expression: str) -> tuple[Sequence[Node], frozenset[str]]:
    """Return the nodes of an expression, and the letters of the flags that it begins with. Raises ExpressionError."""
    if len(expression) > MAX_CHARACTERS:
        raise ExpressionError(f"it is longer than {MAX_CHARACTERS} characters")
    flags: set[str] = set()
    names: set[str] = set()
    # By open group: how it begins, and its alternatives. What a count would repeat is one entry of an alternative.
    groups: list[tuple[str, list[list[Sequence[Node]]]]] = [("", [[]])]
    repeats = False
    for sign in _TOKEN.findall(expression):
        begins, alternatives = groups[-1]
        pieces = alternatives[-1]
        repeats, could_repeat = True, repeats
        if sign.startswith("(?#"):
            repeats = could_repeat
        elif sign in _PLACES:
            pieces.append((Node(_PLACES[sign], can_be_empty=True),))
            repeats = False
        elif counted := _REPEAT.fullmatch(sign):
            if not could_repeat:
                raise ExpressionError(_BAD)
            pieces[-1] = (_repeat(tuple(pieces[-1]), *counted.groups()),)
            repeats = False
        elif sign == "|":
            alternatives.append([])
            repeats = False
        elif sign == ")":
            if not begins:
                raise ExpressionError(_BAD)
            groups.pop()
            groups[-1][1][-1].append(_group(begins, _either(alternatives)))
        elif sign[0] == "(":
            repeats = False
            if sign == "(?":
                raise ExpressionError(_RARE)
            if sign[-1] == ")" and groups == [("", [[]])]:
                flags.update(sign[2:-1])
                if "x" in flags:
                    # What follows is read by other rules.
                    raise ExpressionError("it sets flags other than i, m and s")
                continue
            if sign[-1] in "):" and sign != "(?:":
                raise ExpressionError("it sets flags")
            if sign.startswith("(?P<"):
                if sign in names or not sign[4:-1].isidentifier():
                    raise ExpressionError(_BAD)
                names.add(sign)
            groups.append((sign, [[]]))
        else:
            pieces.append((_one_character(sign),))
    if len(groups) > 1:
        raise ExpressionError(_BAD)
    nodes = _either(groups[0][1])
    _require_flat(nodes)
    return nodes, frozenset(flags - {"u"})


def _repeat(body: tuple[Node, ...], mark: str | None, least: str, comma: str, most: str, suffix: str) -> Node:
    if suffix == "+":
        raise ExpressionError(_RARE)
    if mark:
        low, high = int(mark == "+"), 1 if mark == "?" else None
    else:
        low = int(least or 0)
        high = (int(most) if most else None) if comma else low
    if max(low, high or 0) >= _COUNTS_BELOW or (high is not None and high < low):
        raise ExpressionError(_BAD)
    return Node("repeat", (body,), least=low, most=high, can_be_empty=low == 0 or all(one.can_be_empty for one in body))


def _group(begins: str, nodes: tuple[Node, ...]) -> Sequence[Node]:
    if begins == "(?:":
        return nodes
    if begins in ("(?=", "(?!"):
        return (Node("ahead" if begins == "(?=" else "not ahead", (nodes,), can_be_empty=True),)
    return (_or((nodes,)),)


def _or(parts: tuple[tuple[Node, ...], ...]) -> Node:
    return Node("or", parts, can_be_empty=any(all(node.can_be_empty for node in part) for part in parts))


def _either(alternatives: list[list[Sequence[Node]]]) -> tuple[Node, ...]:
    """Join alternatives as `re` does: what all of them begin with is tried once, and single characters become a set."""
    parts = [tuple(node for piece in pieces for node in piece) for pieces in alternatives]
    if len(parts) == 1:
        return parts[0]
    shared = 0
    while all(len(part) > shared for part in parts) and not parts[0][shared].parts:
        if any(part[shared] != parts[0][shared] for part in parts):
            break
        shared += 1
    start, rests = parts[0][:shared], tuple(part[shared:] for part in parts)
    if all(len(rest) == 1 and rest[0].kind == "set" and not rest[0].is_negated for rest in rests):
        return (*start, _set(item for (one,) in rests for item in one.items))
    return (*start, _or(rests))


def _set(items: Iterable[str | tuple[int, int]], is_negated: bool = False) -> Node:
    return Node("set", items=tuple(dict.fromkeys(items)), is_negated=is_negated)


def _one_character(sign: str) -> Node:
    """Return the node of a character, escaped or not, a dot, or a set. Raises ExpressionError."""
    if sign == ".":
        return Node("any")
    if sign in _CLASSES:
        return _set([sign])
    if len(sign) > 1 and sign[0] == "[":
        return _set_of(sign)
    if len(sign) == 2 and sign[1] in "123456789":
        raise ExpressionError(_RARE)
    if sign == "[":
        raise ExpressionError(_BAD)
    return _set([_letter(sign)])


def _set_of(sign: str) -> Node:
    negated = sign[1] == "^"
    inside = sign[1 + negated : -1]
    plain = re.sub(r"\\.", "a", inside, flags=re.DOTALL)
    if "[" in plain or re.search(r"([-&~|])\1", plain):
        # `re` warns that these may change their meaning.
        raise ExpressionError("it seems to nest character sets")
    items: list[str | tuple[int, int]] = []
    for first, last in _PART_OF_SET.findall(inside):
        if not last:
            items.append(first if first in _CLASSES else _letter(first))
        elif first in _CLASSES or last in _CLASSES or _letter(first) > _letter(last):
            raise ExpressionError(_BAD)
        else:
            items.append((ord(_letter(first)), ord(_letter(last))))
    return _set(items, negated)


def _letter(sign: str) -> str:
    """Return the character that is meant by itself or an escape. Raises ExpressionError."""
    if sign[0] != "\\":
        return sign
    kind, value = sign[1:2], sign[2:]
    try:
        if kind in _CONTROLS:
            return _CONTROLS[kind]
        if kind == "N":
            import unicodedata

            return chr(ord(unicodedata.lookup(value[1:-1])))
        if kind in ("x", "u", "U"):
            return chr(int(value, 16))
        if kind.isdecimal() and kind.isascii():
            return bytes([int(sign[1:], 8)]).decode("latin-1")
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ExpressionError(_BAD) from error
    if not kind or (kind.isascii() and kind.isalpha()):
        raise ExpressionError(_BAD)
    return kind


def _require_flat(nodes: Sequence[Node]) -> None:
    """Raise ExpressionError if groups are nested too deeply; this does not recurse itself."""
    waiting = [(nodes, 0)]
    while waiting:
        inside, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise ExpressionError("its groups are nested too deeply")
        waiting.extend((part, depth + 1) for node in inside for part in node.parts)
