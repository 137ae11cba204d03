r"""Regular expressions that a stranger wrote, tried without backtracking and within a budget of steps.

Python's `re` may take a time without bound for a short expression: `(a+)+b` doubles it with each letter. Here an
expression becomes a set of states that move on together, letter by letter, so the steps are at most letters × states.

>>> budget = Budget(10_000)
>>> Automaton([r"(a+)+b", r"layers\.\d+"]).first("a" * 60, budget) is None
True
>>> Automaton([r"(a+)+b", r"layers\.\d+"]).first("layers.12", budget)
1
>>> Automaton([r"(?i)answer:\s*\d+$"], within=True).first("So it is.\nANSWER: 42", budget)
0
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any

from sdk.formats.letter_case import same_letters

# The library's own parser, so that what is understood here is what `re` understands: public only under a name that warns.
from re import _constants as _re  # type: ignore[attr-defined]  # isort: skip
from re import _parser  # type: ignore[attr-defined]  # isort: skip

#: No expression in a configuration comes near.
MAX_CHARACTERS = 1000
_MAX_STATES = 4000
#: Of groups in one another.
MAX_DEPTH = 30
#: States that are kept from one name to the next, all lists of them together.
_MAX_KEPT = 500_000
#: Flags at the beginning of an expression that is looked for within texts: "(?ims)".
_FLAGS = re.IGNORECASE | re.MULTILINE | re.DOTALL

#: What it is, by the constants of the library, and what belongs to it.
Node = tuple[Any, Any]


class ExpressionError(ValueError):
    """An expression that is none, or that is not of the kind that is asked for; the text says why, after "because"."""


class BudgetError(Exception):
    """More steps would be needed than there are."""


class Budget:
    """Steps that may be taken, which all who share it use up; a step takes a tenth of a microsecond or two."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def spend(self, steps: int) -> None:
        """Use up some steps. Raises BudgetError if there are not as many."""
        self.left -= steps
        if self.left < 0:
            raise BudgetError


def parsed(expression: str) -> list[Node]:
    """Return an expression as the library's parser understands it, without flags. Raises ExpressionError."""
    nodes, flags = _parsed(expression)
    if flags:
        raise ExpressionError("it sets flags")
    return nodes


@lru_cache(maxsize=64)
def _parsed(expression: str) -> tuple[list[Node], int]:
    """Return an expression with the flags that it sets."""
    if len(expression) > MAX_CHARACTERS:
        raise ExpressionError(f"it is longer than {MAX_CHARACTERS} characters")
    if _nests_sets(expression):
        raise ExpressionError("it seems to nest character sets")
    try:
        found = _parser.parse(expression)
    except (re.error, OverflowError, RecursionError) as error:
        raise ExpressionError("it is not a regular expression") from error
    return list(found), found.state.flags & ~re.UNICODE


def _nests_sets(expression: str) -> bool:
    """Whether `re` would warn that a set may mean something else one day: "[[", or "--", "&&", "~~" or "||" in a set."""
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
            # A bracket that comes first, perhaps after ^, does not close the set.
            empty = empty and letter == "^" and before == ""
            before = letter
    return False


def character_test(node: Node, flags: int = 0) -> Callable[[str], bool]:
    """Return what tells whether one character is meant."""
    op, argument = node
    if op is _re.ANY:
        return _anything if flags & re.DOTALL else "\n".__ne__
    negated = op is _re.NOT_LITERAL
    if op is _re.IN:
        negated = bool(argument) and argument[0][0] is _re.NEGATE
        parts = [_part(part) for part in argument[negated:]]
    else:
        parts = [chr(argument).__eq__]
    if flags & re.IGNORECASE:
        return lambda letter: any(part(same) for same in same_letters(letter) for part in parts) is not negated
    return lambda letter: any(part(letter) for part in parts) is not negated


def _anything(_letter: str) -> bool:
    return True


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


def _part(part: Node) -> Callable[[str], bool]:
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
    raise ExpressionError("it uses rare syntax")


def _is_word(text: str, at: int) -> bool:
    return 0 <= at < len(text) and (text[at].isalnum() or text[at] == "_")


def group_of(argument: Any) -> list[Node]:
    """Return what is in a group. Raises ExpressionError for one that sets flags."""
    _, added, removed, body = argument
    if added or removed:
        raise ExpressionError("it sets flags")
    return list(body)


class Automaton:
    """Several expressions as one machine, which says which of them is the first to be all of a text.

    `after_dot` lets each also be what follows any of the text's dots. With `within` it is enough that a text contains it,
    as for `re.search`, and it may begin with the flags i, m and s; otherwise a text with a line break is none of them.
    Alternatives, repetitions, groups, anchors, word boundaries and looking ahead are understood. Raises ExpressionError for
    what is none, or has more than that.
    """

    def __init__(self, expressions: Sequence[str], *, after_dot: bool = False, within: bool = False) -> None:
        #: By state: a test of one character, or a place ("^", "$", "Z", "b", "B", in each line "^m", "$m", ("ahead", state),
        #: ("not ahead", state)), or the number of the expression that is done; None for a state that only leads on.
        self._what: list[Callable[[str], bool] | str | tuple[str, int] | int | None] = []
        self._next: list[tuple[int, ...]] = []
        self._depends_on_place = self._has_end = False
        self._within = within
        begins = []
        for number, expression in enumerate(expressions):
            nodes, self._flags = _parsed(expression)
            if self._flags & ~(_FLAGS if within else 0):
                raise ExpressionError("it sets flags other than i, m and s" if within else "it sets flags")
            first, done = len(self._what), self._add(number, ())
            begins.append(self._sequence(nodes, self._anywhere(done) if within else done, first, 0))
        start = tuple(begins)
        if within:
            start = tuple(self._anywhere(begin) for begin in begins)
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
        """Return the number of the first expression that is all of a text, or within it; None. Raises BudgetError."""
        if "\n" in text and not self._within:
            # Where a line ends, `$` and `.` have other meanings.
            return None
        ahead: dict[tuple[int, int], bool] = {}
        # `$` is also before a line break that ends the text.
        keeps = not (self._depends_on_place or (self._has_end and text.endswith("\n")))
        state = self._closed(self._start, text, 0, budget, ahead)
        for at, letter in enumerate(text):
            moves = self._moves.get(state) if keeps else None
            moved = moves.get(letter) if moves is not None else None
            if moved is None:
                moved = self._moved(state, letter, text, at + 1, budget, ahead)
                if keeps:
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
                or (what in ("$", "Z", "$m") and at_end)
                or (what == "$" and at == len(text) - 1 and text[at] == "\n")
                or (what == "^m" and (at == 0 or text[at - 1] == "\n"))
                or (what == "$m" and text[at : at + 1] == "\n")
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

    def _anywhere(self, after: int) -> int:
        """Add states for any text; return where it begins."""
        loop = self._add(None, ())
        self._next[loop] = (self._add(_anything, (loop,)), after)
        return loop

    def _add(self, what: Callable[[str], bool] | str | tuple[str, int] | int | None, to: tuple[int, ...]) -> int:
        self._what.append(what)
        self._next.append(to)
        return len(self._what) - 1

    def _sequence(self, nodes: Sequence[Node], after: int, first: int, depth: int) -> int:
        """Add states for a sequence that goes on at the state `after`; return where it begins."""
        if depth > MAX_DEPTH:
            raise ExpressionError("its groups are nested too deeply")
        for node in reversed(nodes):
            if len(self._what) - first > _MAX_STATES:
                raise ExpressionError("its repeat counts are too high")
            after = self._node(node, after, first, depth)
        return after

    def _node(self, node: Node, after: int, first: int, depth: int) -> int:
        op, argument = node
        if op in (_re.LITERAL, _re.NOT_LITERAL, _re.ANY, _re.IN):
            return self._add(character_test(node, self._flags), (after,))
        if op is _re.SUBPATTERN:
            return self._sequence(group_of(argument), after, first, depth + 1)
        if op is _re.BRANCH:
            parts = [self._sequence(list(part), after, first, depth + 1) for part in argument[1]]
            return self._add(None, tuple(parts))
        if op is _re.FAILURE:
            # As `(?!)`: it leads nowhere.
            return self._add(None, ())
        if op in (_re.MAX_REPEAT, _re.MIN_REPEAT):
            return self._repeated(argument, after, first, depth)
        if op is _re.AT:
            by_line = "m" if self._flags & re.MULTILINE else ""
            places = {
                _re.AT_BEGINNING: f"^{by_line}",
                _re.AT_BEGINNING_STRING: "^",
                _re.AT_END: f"${by_line}",
                _re.AT_END_STRING: "Z",
                _re.AT_BOUNDARY: "b",
                _re.AT_NON_BOUNDARY: "B",
            }
            place = places[argument]
            self._has_end |= place == "$"
            self._depends_on_place |= place in ("b", "B", "^m", "$m")
            return self._add(place, (after,))
        if op in (_re.ASSERT, _re.ASSERT_NOT) and argument[0] == 1:
            self._depends_on_place = True
            looked = self._sequence(list(argument[1]), self._add(0, ()), first, depth + 1)
            return self._add(("ahead" if op is _re.ASSERT else "not ahead", looked), (after,))
        raise ExpressionError("it looks back, refers back, or uses rare syntax")

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
