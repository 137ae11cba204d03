r"""Regular expressions that a stranger wrote, tried without backtracking and within a budget of steps.

Python's `re` may take a time without bound for a short expression: `(a+)+b` doubles it with each letter. Here an
expression becomes a set of states that move on together, letter by letter, so the steps are at most letters × states.
What `re` itself would do with an expression is estimated by `tries`, which refuses all but plain ones.

>>> budget = Budget(10_000)
>>> Automaton([r"(a+)+b", r"layers\.\d+"]).first("a" * 60, budget) is None
True
>>> Automaton([r"(a+)+b", r"layers\.\d+"]).first("layers.12", budget)
1
>>> tries(r".*\.layers\.\d+\.(q|k)_proj")
132
>>> tries(r"(a+)+b")
Traceback (most recent call last):
sdk.formats.expressions.ExpressionError: it repeats a group
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from math import factorial
from typing import Any, Final

# The library's own parser, so that what is understood here is what `re` understands: public only under a name that warns.
from re import _constants as _re  # type: ignore[attr-defined]  # isort: skip
from re import _parser  # type: ignore[attr-defined]  # isort: skip

#: No expression in a configuration comes near.
MAX_CHARACTERS = 1000
#: The name for which tries are counted; names of modules have up to about 80 characters.
NAME_CHARACTERS: Final = 64

_MAX_STATES = 4000
_MAX_DEPTH = 30
#: States that are kept from one name to the next, all lists of them together.
_MAX_KEPT = 500_000

_Node = tuple[Any, Any]
#: One bit for each ASCII character, and one for all others.
_OTHERS = 1 << 128
_ALL = (1 << 129) - 1


class ExpressionError(ValueError):
    """An expression that is none, or that is not of the kind that is asked for; the text says why, after "because"."""


class BudgetError(Exception):
    """More steps would be needed than there are."""


class Budget:
    """Steps that may be taken, which all who share it use up; a step takes a tenth of a microsecond or two."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def spend(self, steps: int) -> None:
        """Use up some steps. Raises BudgetError where there are not as many."""
        self.left -= steps
        if self.left < 0:
            raise BudgetError


@lru_cache(maxsize=1024)
def _parsed(expression: str) -> list[_Node]:
    if len(expression) > MAX_CHARACTERS:
        raise ExpressionError(f"it is longer than {MAX_CHARACTERS} characters")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            parsed = _parser.parse(expression)
    except (re.error, OverflowError, RecursionError) as error:
        raise ExpressionError("it is no regular expression") from error
    if parsed.state.flags & ~re.UNICODE:
        raise ExpressionError("it sets flags")
    return list(parsed)


# --- What `re` would take ---


@lru_cache(maxsize=4096)
def tries(expression: str) -> int:
    """Return how often `re` may try to go on, at most and roughly, on a name of NAME_CHARACTERS.

    Plain expressions only: single characters and sets, repeated or not, groups that are not repeated, alternatives, and
    the anchors ^ and $. Raises ExpressionError for all else.
    """
    repeats, ways, length = _ways(_parsed(expression), 0)
    # Positions of so many repetitions, one after the other; each try compares some characters.
    positions: int = NAME_CHARACTERS**repeats // factorial(repeats)
    return max(1, positions * ways * (16 + min(length, NAME_CHARACTERS)) // 16)


def _ways(nodes: Sequence[_Node], depth: int) -> tuple[int, int, int]:
    """Return the repetitions without a bound on one way through, the ways otherwise, and the characters on one."""
    if depth > _MAX_DEPTH:
        raise ExpressionError("its groups are nested too deeply")
    repeats, ways, length = 0, 1, 0
    for position, (op, argument) in enumerate(nodes):
        if op in (_re.LITERAL, _re.NOT_LITERAL, _re.ANY, _re.IN):
            length += 1
        elif op is _re.AT and argument in (_re.AT_BEGINNING, _re.AT_END):
            pass
        elif op is _re.SUBPATTERN or op is _re.BRANCH:
            alternatives = argument[1] if op is _re.BRANCH else [_group(argument)]
            parts = [_ways(list(part), depth + 1) for part in alternatives]
            repeats += max(part[0] for part in parts)
            ways *= _overlap(alternatives) * max(part[1] for part in parts)
            length += max(part[2] for part in parts)
        elif op in (_re.MAX_REPEAT, _re.MIN_REPEAT):
            low, high, body = argument
            if len(body) == 1 and body[0][0] in (_re.LITERAL, _re.NOT_LITERAL, _re.ANY, _re.IN):
                follows, may_end = _begins(nodes[position + 1 :])
                # Where what follows can't be what is repeated, or is the end of the name, there is one way to go on.
                if (may_end and depth) or follows & _letters(body[0]):
                    spread = min(int(high), NAME_CHARACTERS) - min(int(low), NAME_CHARACTERS)
                    if spread < 8:
                        ways *= spread + 1
                    else:
                        repeats += 1
                length += NAME_CHARACTERS
            elif (int(low), int(high)) == (0, 1):
                inner = _ways(list(body), depth + 1)
                repeats, ways, length = repeats + inner[0], ways * 2 * inner[1], length + inner[2]
            else:
                raise ExpressionError("it repeats a group")
        else:
            raise ExpressionError("it looks ahead or back, refers back, or has parts that are seldom used")
        # Nothing is won by counting further.
        if repeats > 6 or ways > 1_000_000:
            raise ExpressionError("it can be tried in too many ways")
    return repeats, ways, length


def _group(argument: Any) -> list[_Node]:
    _, added, removed, body = argument
    if added or removed:
        raise ExpressionError("it sets flags")
    return list(body)


def _overlap(alternatives: Iterable[Iterable[_Node]]) -> int:
    """Return how many of some alternatives can begin with the same character, at most."""
    begins = [_begins(list(part)) for part in alternatives]
    bits = [_ALL if may_end else letters for letters, may_end in begins]
    return max(1, max(sum(mask >> bit & 1 for mask in bits) for bit in range(129)))


def _begins(nodes: Sequence[_Node]) -> tuple[int, bool]:
    """Return the characters with which a sequence can begin, and whether it can be empty and something else follow."""
    found = 0
    for op, argument in nodes:
        if op in (_re.LITERAL, _re.NOT_LITERAL, _re.ANY, _re.IN):
            return found | _letters((op, argument)), False
        if op is _re.AT and argument is _re.AT_END:
            # Nothing comes after it: whatever follows a repetition is not what is repeated.
            return found, False
        if op in (_re.MAX_REPEAT, _re.MIN_REPEAT):
            low, _, body = argument
            letters, may_end = _begins(list(body))
            may_end = may_end or int(low) == 0
        elif op is _re.SUBPATTERN:
            letters, may_end = _begins(list(argument[3]))
        elif op is _re.BRANCH:
            parts = [_begins(list(part)) for part in argument[1]]
            letters, may_end = 0, any(part[1] for part in parts)
            for part in parts:
                letters |= part[0]
        else:
            letters, may_end = 0, True
        found |= letters
        if not may_end:
            return found, False
    return found, True


@lru_cache(maxsize=1024)
def _mask(op: Any, argument: Any) -> int:
    test = _test((op, list(argument) if op is _re.IN else argument))
    return sum(1 << code for code in range(128) if test(chr(code))) | _OTHERS


def _letters(node: _Node) -> int:
    op, argument = node
    if op is _re.LITERAL:
        return 1 << argument if argument < 128 else _OTHERS
    return _mask(op, tuple(argument) if op is _re.IN else argument)


# --- Trying them here ---


def _test(node: _Node) -> Callable[[str], bool]:
    """Return what tells whether one character is meant."""
    op, argument = node
    if op is _re.LITERAL:
        return chr(argument).__eq__
    if op is _re.NOT_LITERAL:
        return chr(argument).__ne__
    if op is _re.ANY:
        return "\n".__ne__
    negated = bool(argument) and argument[0][0] is _re.NEGATE
    parts = [_part(part) for part in argument[negated:]]
    return lambda letter: any(part(letter) for part in parts) is not negated


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


def _part(part: _Node) -> Callable[[str], bool]:
    kind, value = part
    if kind is _re.LITERAL:
        return chr(value).__eq__
    if kind is _re.RANGE:
        first, last = value
        return lambda letter: first <= ord(letter) <= last
    if kind is _re.CATEGORY and value in _CATEGORIES:
        return _CATEGORIES[value]
    if kind is _re.CATEGORY and value in _NOT_CATEGORIES:
        meant = _CATEGORIES[_NOT_CATEGORIES[value]]
        return lambda letter: not meant(letter)
    raise ExpressionError("it has parts that are seldom used")


def _is_word(text: str, at: int) -> bool:
    return 0 <= at < len(text) and (text[at].isalnum() or text[at] == "_")


class Automaton:
    """Several expressions as one machine, which says which of them is the first to be all of a text.

    `after_dot` lets each also be what follows any of the text's dots. Alternatives, repetitions, groups, anchors, word
    boundaries and looking ahead are understood. Raises ExpressionError for what is none, or has more than that.
    """

    def __init__(self, expressions: Sequence[str], *, after_dot: bool = False) -> None:
        #: By state: a test of one character, or a place ("^", "$", "b", "B", ("ahead", state), ("not ahead", state)),
        #: or the number of the expression that is done; None for a state that only leads on.
        self._what: list[Callable[[str], bool] | str | tuple[str, int] | int | None] = []
        self._next: list[tuple[int, ...]] = []
        self._depends_on_place = False
        begins = []
        for number, expression in enumerate(expressions):
            first = len(self._what)
            begins.append(self._sequence(_parsed(expression), self._add(number, ()), first, 0))
        start = tuple(begins)
        if after_dot:
            # (.*\.)? before each.
            loop = self._add(None, ())
            rest = self._add("\n".__ne__, (loop,))
            self._next[loop] = (rest, self._add(".".__eq__, start))
            start = (*start, loop)
        self._start = start
        self._moves: dict[frozenset[int], dict[str, frozenset[int]]] = {}
        self._kept = 0

    def first(self, text: str, budget: Budget) -> int | None:
        """Return the number of the first expression that is all of a text, or None. Raises BudgetError."""
        if "\n" in text:
            # Where a line ends, `$` and `.` have meanings of their own.
            return None
        ahead: dict[tuple[int, int], bool] = {}
        state = self._closed(self._start, text, 0, budget, ahead)
        for at, letter in enumerate(text):
            moves = self._moves.get(state)
            moved = moves.get(letter) if moves is not None else None
            if moved is None:
                moved = self._moved(state, letter, text, at + 1, budget, ahead)
                if not self._depends_on_place:
                    self._keep(state, letter, moved)
            budget.spend(1)
            if not moved:
                return None
            state = moved
        done = self._closed(state, text, len(text), budget, ahead, at_end=True)
        return min((what for at in done if isinstance(what := self._what[at], int)), default=None)

    def _keep(self, state: frozenset[int], letter: str, moved: frozenset[int]) -> None:
        if self._kept > _MAX_KEPT:
            self._moves.clear()
            self._kept = 0
        self._moves.setdefault(state, {})[letter] = moved
        self._kept += len(state) + len(moved)

    def _moved(
        self, state: frozenset[int], letter: str, text: str, at: int, budget: Budget, ahead: dict[tuple[int, int], bool]
    ) -> frozenset[int]:
        budget.spend(len(state))
        to: list[int] = []
        for each in state:
            what = self._what[each]
            if callable(what) and what(letter):
                to.extend(self._next[each])
        return self._closed(to, text, at, budget, ahead)

    def _closed(
        self,
        states: Iterable[int],
        text: str,
        at: int,
        budget: Budget,
        ahead: dict[tuple[int, int], bool],
        *,
        at_end: bool = False,
    ) -> frozenset[int]:
        """Return states with all to which they lead without a character; what waits for the end stays as it is."""
        found: set[int] = set()
        waiting = list(states)
        while waiting:
            state = waiting.pop()
            if state in found:
                continue
            found.add(state)
            what = self._what[state]
            if (
                what is None
                or (what == "^" and at == 0)
                or (what == "$" and at_end)
                or (what in ("b", "B") and (_is_word(text, at - 1) != _is_word(text, at)) is (what == "b"))
                or (isinstance(what, tuple) and self._goes_on(what, text, at, budget, ahead))
            ):
                waiting.extend(self._next[state])
        budget.spend(len(found))
        return frozenset(found)

    def _goes_on(
        self, what: tuple[str, int], text: str, at: int, budget: Budget, ahead: dict[tuple[int, int], bool]
    ) -> bool:
        """Whether what is looked ahead for is there, or is not."""
        kind, start = what
        if (start, at) not in ahead:
            ahead[start, at] = self._begins(start, text, at, budget, ahead)
        return ahead[start, at] is (kind == "ahead")

    def _begins(self, start: int, text: str, at: int, budget: Budget, ahead: dict[tuple[int, int], bool]) -> bool:
        state = self._closed((start,), text, at, budget, ahead, at_end=at == len(text))
        for position in range(at, len(text)):
            if any(isinstance(self._what[each], int) for each in state):
                return True
            state = self._moved(state, text[position], text, position + 1, budget, ahead)
            if position + 1 == len(text):
                state = self._closed(state, text, len(text), budget, ahead, at_end=True)
        return any(isinstance(self._what[each], int) for each in state)

    # --- Building ---

    def _add(self, what: Callable[[str], bool] | str | tuple[str, int] | int | None, to: tuple[int, ...]) -> int:
        self._what.append(what)
        self._next.append(to)
        return len(self._what) - 1

    def _sequence(self, nodes: Sequence[_Node], after: int, first: int, depth: int) -> int:
        """Add states for a sequence that goes on at the state `after`; return where it begins."""
        if depth > _MAX_DEPTH:
            raise ExpressionError("its groups are nested too deeply")
        for node in reversed(nodes):
            if len(self._what) - first > _MAX_STATES:
                raise ExpressionError("it counts too far")
            after = self._node(node, after, first, depth)
        return after

    def _node(self, node: _Node, after: int, first: int, depth: int) -> int:
        op, argument = node
        if op in (_re.LITERAL, _re.NOT_LITERAL, _re.ANY, _re.IN):
            return self._add(_test(node), (after,))
        if op is _re.SUBPATTERN:
            return self._sequence(_group(argument), after, first, depth + 1)
        if op is _re.BRANCH:
            parts = [self._sequence(list(part), after, first, depth + 1) for part in argument[1]]
            return self._add(None, tuple(parts))
        if op in (_re.MAX_REPEAT, _re.MIN_REPEAT):
            return self._repeated(argument, after, first, depth)
        if op is _re.AT:
            places = {
                _re.AT_BEGINNING: "^",
                _re.AT_BEGINNING_STRING: "^",
                _re.AT_END: "$",
                _re.AT_END_STRING: "$",
                _re.AT_BOUNDARY: "b",
                _re.AT_NON_BOUNDARY: "B",
            }
            place = places[argument]
            self._depends_on_place |= place in ("b", "B")
            return self._add(place, (after,))
        if op in (_re.ASSERT, _re.ASSERT_NOT) and argument[0] == 1:
            self._depends_on_place = True
            looked = self._sequence(list(argument[1]), self._add(0, ()), first, depth + 1)
            return self._add(("ahead" if op is _re.ASSERT else "not ahead", looked), (after,))
        raise ExpressionError("it looks back, refers back, or has parts that are seldom used")

    def _repeated(self, argument: Any, after: int, first: int, depth: int) -> int:
        low, high, body = argument
        nodes = list(body)
        if high is _re.MAXREPEAT:
            loop = self._add(None, ())
            self._next[loop] = (self._sequence(nodes, loop, first, depth + 1), after)
            after = loop
        else:
            end = after
            for _ in range(min(int(high) - int(low), _MAX_STATES + 1)):
                after = self._add(None, (self._sequence(nodes, after, first, depth + 1), end))
        for _ in range(min(int(low), _MAX_STATES + 1)):
            after = self._sequence(nodes, after, first, depth + 1)
        return after
