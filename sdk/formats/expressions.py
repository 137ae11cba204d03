r"""Untrusted regular expressions, tried without backtracking and within a budget of steps.

Python's `re` may take unbounded time for a short expression: with `(a+)+b` it doubles with each letter. Here an
expression becomes a set of states that advance together, letter by letter, so there are at most letters × states steps.

>>> budget = Budget(10_000)
>>> Automaton([r"(a+)+b", r"layers\.\d+"]).first("a" * 60, budget) is None
True
>>> Automaton([r"(a+)+b", r"layers\.\d+"]).first("layers.12", budget)
1
>>> Automaton([r"(?i)answer:\s*\d+$"], within=True).first("So it is.\nANSWER: 42", budget)
0
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from sdk.formats.character_tests import anything, character_test
from sdk.formats.expression_syntax import MAX_CHARACTERS, ONE_CHARACTER, ExpressionError, Node, parsed_with_flags

__all__ = ["MAX_CHARACTERS", "Automaton", "Budget", "BudgetError", "ExpressionError"]

#: What building an automaton may take: so much, and so much more for each character of its expressions. A step is a node
#: that is visited, or a round of a repetition, whether or not it makes a state; it takes about a microsecond.
BUILDING_STEPS = 8_000
BUILDING_STEPS_A_CHARACTER = 8
#: How many states are cached from one name to the next, in all lists together.
_MAX_KEPT = 500_000
#: Flags at the beginning of an expression that is searched for in texts: "(?ims)".
_FLAGS = frozenset("ims")


class BudgetError(Exception):
    """More steps are needed than are left."""


class Budget:
    """The steps that may be taken, shared by everything that uses this budget; a step takes 0.1 to 0.2 µs."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def spend(self, steps: int) -> None:
        """Use up some steps. Raises BudgetError if there are not enough."""
        self.left -= steps
        if self.left < 0:
            raise BudgetError


def _is_word(text: str, at: int) -> bool:
    return 0 <= at < len(text) and (text[at].isalnum() or text[at] == "_")


class Automaton:
    """Several expressions as one automaton, which finds the first of them that matches all of a text.

    With `after_dot` each may also match what follows any of the text's dots. With `within` it is enough that a text
    contains a match, as for `re.search`, and an expression may begin with the flags i, m and s; otherwise a text with a
    line break matches none. Alternatives, repetitions, groups, anchors, word boundaries and lookaheads are supported, but
    no counted repetition of what can be empty, such as "(a?){3}". Raises ExpressionError for anything else, if a text
    isn't an expression, or if building takes more steps than its length allows.
    """

    def __init__(self, expressions: Sequence[str], *, after_dot: bool = False, within: bool = False) -> None:
        #: By state: a test for one character, or a position ("^", "$", "Z", "b", "B", in each line "^m", "$m",
        #: ("ahead", state), ("not ahead", state)), or the number of the expression that has matched; None for a state
        #: that only leads on.
        self._what: list[Callable[[str], bool] | str | tuple[str, int] | int | None] = []
        self._next: list[tuple[int, ...]] = []
        self._depends_on_place = self._has_end = False
        self._within = within
        self._building = Budget(BUILDING_STEPS + BUILDING_STEPS_A_CHARACTER * sum(map(len, expressions)))
        #: The tests of the expression that is being added, by the identity of their nodes: a set that is repeated has one.
        self._tests: dict[int, Callable[[str], bool]] = {}
        begins = []
        for number, expression in enumerate(expressions):
            nodes, self._flags = parsed_with_flags(expression)
            if self._flags - (_FLAGS if within else set()):
                raise ExpressionError("it sets flags other than i, m and s" if within else "it sets flags")
            self._tests.clear()
            done = self._add(number, ())
            try:
                begins.append(self._sequence(nodes, self._anywhere(done) if within else done))
            except BudgetError:
                raise ExpressionError("its repeat counts are too high") from None
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
        """Return the number of the first expression that matches all of a text, or a part of it; None if none does.
        Raises BudgetError.
        """
        if "\n" in text and not self._within:
            # `$` and `.` have other meanings at the end of a line.
            return None
        ahead: dict[tuple[int, int], bool] = {}
        # `$` also matches before a line break that ends the text.
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
        """Return states and all states that they lead to without a character; those that wait for the end stay as they are."""
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
        """Whether a lookahead succeeds."""
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
        """Add states for any text; return the first one."""
        loop = self._add(None, ())
        self._next[loop] = (self._add(anything, (loop,)), after)
        return loop

    def _add(self, what: Callable[[str], bool] | str | tuple[str, int] | int | None, to: tuple[int, ...]) -> int:
        self._what.append(what)
        self._next.append(to)
        return len(self._what) - 1

    def _sequence(self, nodes: Sequence[Node], after: int) -> int:
        """Add states for a sequence that continues at the state `after`; return the first one. Raises BudgetError."""
        self._building.spend(1)
        for node in reversed(nodes):
            self._building.spend(1)
            after = self._node(node, after)
        return after

    def _node(self, node: Node, after: int) -> int:
        if node.kind in ONE_CHARACTER:
            if (test := self._tests.get(id(node))) is None:
                test = self._tests[id(node)] = character_test(node, self._flags)
            return self._add(test, (after,))
        if node.kind == "or":
            begins = tuple(self._sequence(part, after) for part in node.parts)
            return begins[0] if len(begins) == 1 else self._add(None, begins)
        if node.kind == "repeat":
            return self._repeated(node, after)
        if node.kind in ("ahead", "not ahead"):
            self._depends_on_place = True
            return self._add((node.kind, self._sequence(node.parts[0], self._add(0, ()))), (after,))
        by_line = "m" if "m" in self._flags else ""
        place = {"^": f"^{by_line}", "A": "^", "$": f"${by_line}"}.get(node.kind, node.kind)
        self._has_end |= place == "$"
        self._depends_on_place |= place in ("b", "B", "^m", "$m")
        return self._add(place, (after,))

    def _repeated(self, node: Node, after: int) -> int:
        (body,) = node.parts
        if (node.least > 1 or (node.most or 0) > 1) and all(one.can_be_empty for one in body):
            raise ExpressionError("it repeats something that can be empty a given number of times; use * instead")
        if node.most is None:
            loop = self._add(None, ())
            self._next[loop] = (self._sequence(body, loop), after)
            after = loop
        else:
            end = after
            for _ in range(node.most - node.least):
                after = self._add(None, (self._sequence(body, after), end))
        for _ in range(node.least):
            after = self._sequence(body, after)
        return after
