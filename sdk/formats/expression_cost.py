r"""An upper estimate of what Python's `re` needs to try an expression on a name, made without trying it.

Only plain expressions have such an estimate: repeated groups, lookarounds and backreferences may take unbounded time.

>>> tries(r".*\.layers\.\d+\.(q|k)_proj")
320
>>> tries(r"(a+)+b")
Traceback (most recent call last):
sdk.formats.expression_syntax.ExpressionError: it repeats a group
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import factorial
from typing import Final

from sdk.formats.character_tests import character_test
from sdk.formats.expression_syntax import ONE_CHARACTER, ExpressionError, Node, parsed

#: The length of the name for which tries are counted; names of modules have up to about 80 characters.
NAME_CHARACTERS: Final = 64
#: One bit for each ASCII character, and one for all others.
_OTHERS = 1 << 128
_ALL = (1 << 129) - 1


@lru_cache(maxsize=1024)
def tries(expression: str) -> int:
    """Return roughly how many steps `re` may try at most on a name of NAME_CHARACTERS.

    Plain expressions only: single characters and sets, repeated or not, groups that are not repeated, alternatives, and
    the anchors ^ and $. Raises ExpressionError for anything else.
    """
    repeats, ways, length = _ways(parsed(expression), inside=False)
    # The positions that this many repetitions, one after the other, may end at; each try compares some characters.
    positions: int = NAME_CHARACTERS**repeats // factorial(repeats)
    return max(1, positions * ways * (16 + min(length, NAME_CHARACTERS)) // 16)


def _ways(nodes: Sequence[Node], *, inside: bool) -> tuple[int, int, int]:
    """Return the unbounded repetitions on one path through the expression, the number of paths, and the characters on one."""
    repeats, ways, length = 0, 1, 0
    begins = _begins_of_rests(nodes)
    for position, node in enumerate(nodes):
        if node.kind in ONE_CHARACTER:
            length += 1
        elif node.kind in ("^", "$"):
            pass
        elif node.kind == "or":
            parts = [_ways(part, inside=True) for part in node.parts]
            repeats += max(part[0] for part in parts)
            ways *= _overlap(node.parts) * max(part[1] for part in parts)
            length += max(part[2] for part in parts)
        elif node.kind == "repeat":
            (body,) = node.parts
            if len(body) == 1 and body[0].kind in ONE_CHARACTER:
                follows, may_end = begins[position + 1]
                # If what follows can't match what is repeated, or is the end of the name, there is only one way to go on.
                if (may_end and inside) or follows & _letters(body[0]):
                    most = NAME_CHARACTERS if node.most is None else min(node.most, NAME_CHARACTERS)
                    spread = most - min(node.least, NAME_CHARACTERS)
                    if spread < 8:
                        ways *= spread + 1
                    else:
                        repeats += 1
                length += NAME_CHARACTERS
            elif (node.least, node.most) == (0, 1):
                inner = _ways(body, inside=True)
                repeats, ways, length = repeats + inner[0], ways * 2 * inner[1], length + inner[2]
            else:
                raise ExpressionError("it repeats a group")
        else:
            raise ExpressionError("it looks ahead or back, refers back, or uses rare syntax")
        # Counting further would change nothing.
        if repeats > 6 or ways > 1_000_000:
            raise ExpressionError("it can be matched in too many ways")
    return repeats, ways, length


def _overlap(alternatives: Sequence[Sequence[Node]]) -> int:
    """Return the most alternatives that can begin with the same character."""
    begins = [_begins(part) for part in alternatives]
    if len(begins) == 1:
        return 1
    bits = [_ALL if may_end else letters for letters, may_end in begins]
    return max(1, max(sum(mask >> bit & 1 for mask in bits) for bit in range(129)))


def _begins(nodes: Sequence[Node]) -> tuple[int, bool]:
    """Return the characters with which a sequence can begin, and whether it can be empty, so that something else follows."""
    return _begins_of_rests(nodes)[0]


def _begins_of_rests(nodes: Sequence[Node]) -> list[tuple[int, bool]]:
    """Return what `_begins` does for the sequence, for what is left of it after its first node, and so on to nothing.

    Found from the end on, so that each node is looked at once, however many of them can be empty.
    """
    found = [(0, True)]
    for node in reversed(nodes):
        letters, may_end = _first_letters(node)
        if may_end:
            letters, may_end = letters | found[-1][0], found[-1][1]
        found.append((letters, may_end))
    found.reverse()
    return found


def _first_letters(node: Node) -> tuple[int, bool]:
    """Return the characters with which a node can begin, and whether it can be empty."""
    if node.kind in ONE_CHARACTER:
        return _letters(node), False
    if node.kind == "$":
        # Nothing comes after it, so whatever follows a repetition differs from what is repeated.
        return 0, False
    if node.kind not in ("or", "repeat"):
        return 0, True
    letters, may_end = 0, node.least == 0
    for part in node.parts:
        first, ends = _begins(part)
        letters, may_end = letters | first, may_end or ends
    return letters, may_end


@lru_cache(maxsize=128)
def _mask(node: Node) -> int:
    test = character_test(node)
    return sum(1 << code for code in range(128) if test(chr(code))) | _OTHERS


def _letters(node: Node) -> int:
    letter = node.items[0] if len(node.items) == 1 and not node.is_negated else None
    if isinstance(letter, str) and len(letter) == 1:
        return 1 << ord(letter) if letter.isascii() else _OTHERS
    return _mask(node)
