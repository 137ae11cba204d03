r"""An upper estimate of what Python's `re` needs to try an expression on a name, made without trying it.

Only plain expressions have such an estimate: repeated groups, lookarounds and backreferences may take unbounded time.

>>> tries(r".*\.layers\.\d+\.(q|k)_proj")
320
>>> tries(r"(a+)+b")
Traceback (most recent call last):
sdk.formats.expression_syntax.ExpressionError: it repeats a group
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from math import factorial
from typing import Any, Final

from sdk.formats.character_tests import ONE_CHARACTER, character_test
from sdk.formats.expression_syntax import ExpressionError, Node, group_of, parsed

from re import _constants as _re  # type: ignore[attr-defined]  # isort: skip

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
    for position, (op, argument) in enumerate(nodes):
        if op in ONE_CHARACTER:
            length += 1
        elif op is _re.AT and argument in (_re.AT_BEGINNING, _re.AT_END):
            pass
        elif op is _re.SUBPATTERN or op is _re.BRANCH:
            alternatives = argument[1] if op is _re.BRANCH else [group_of(argument)]
            parts = [_ways(list(part), inside=True) for part in alternatives]
            repeats += max(part[0] for part in parts)
            ways *= _overlap(alternatives) * max(part[1] for part in parts)
            length += max(part[2] for part in parts)
        elif op in (_re.MAX_REPEAT, _re.MIN_REPEAT):
            low, high, body = argument
            if len(body) == 1 and body[0][0] in ONE_CHARACTER:
                follows, may_end = begins[position + 1]
                # If what follows can't match what is repeated, or is the end of the name, there is only one way to go on.
                if (may_end and inside) or follows & _letters(body[0]):
                    spread = min(int(high), NAME_CHARACTERS) - min(int(low), NAME_CHARACTERS)
                    if spread < 8:
                        ways *= spread + 1
                    else:
                        repeats += 1
                length += NAME_CHARACTERS
            elif (int(low), int(high)) == (0, 1):
                inner = _ways(list(body), inside=True)
                repeats, ways, length = repeats + inner[0], ways * 2 * inner[1], length + inner[2]
            else:
                raise ExpressionError("it repeats a group")
        else:
            raise ExpressionError("it looks ahead or back, refers back, or uses rare syntax")
        # Counting further would change nothing.
        if repeats > 6 or ways > 1_000_000:
            raise ExpressionError("it can be matched in too many ways")
    return repeats, ways, length


def _overlap(alternatives: Iterable[Iterable[Node]]) -> int:
    """Return the most alternatives that can begin with the same character."""
    begins = [_begins(list(part)) for part in alternatives]
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
    for op, argument in reversed(nodes):
        letters, may_end = _first_letters(op, argument)
        if may_end:
            letters, may_end = letters | found[-1][0], found[-1][1]
        found.append((letters, may_end))
    found.reverse()
    return found


def _first_letters(op: Any, argument: Any) -> tuple[int, bool]:
    """Return the characters with which a node can begin, and whether it can be empty."""
    if op in ONE_CHARACTER:
        return _letters((op, argument)), False
    if op is _re.AT and argument is _re.AT_END:
        # Nothing comes after it, so whatever follows a repetition differs from what is repeated.
        return 0, False
    if op in (_re.MAX_REPEAT, _re.MIN_REPEAT):
        low, _, body = argument
        letters, may_end = _begins(list(body))
        return letters, may_end or int(low) == 0
    if op is _re.SUBPATTERN:
        return _begins(list(argument[3]))
    if op is _re.BRANCH:
        parts = [_begins(list(part)) for part in argument[1]]
        letters = 0
        for part in parts:
            letters |= part[0]
        return letters, any(part[1] for part in parts)
    return 0, True


@lru_cache(maxsize=128)
def _mask(op: Any, argument: Any) -> int:
    test = character_test((op, list(argument) if op is _re.IN else argument))
    return sum(1 << code for code in range(128) if test(chr(code))) | _OTHERS


def _letters(node: Node) -> int:
    op, argument = node
    if op is _re.LITERAL:
        return 1 << argument if argument < 128 else _OTHERS
    return _mask(op, tuple(argument) if op is _re.IN else argument)
