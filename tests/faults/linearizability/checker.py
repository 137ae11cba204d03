"""Whether what several clients saw of one object could have been seen had their calls been made one after another.

Wing and Gong's search ("Testing and verifying concurrent objects", JPDC 17, 1993), which never looks twice at the same
calls done with the same state (Lowe, "Testing for linearizability", CCPE 29, 2017). A call that was never answered may
take effect at any time after it was sent, or never.

>>> def register(state, call):
...     if call.op == "write":
...         return call.args[0]
...     return state if call.answer in (None, state) else IMPOSSIBLE
>>> write = Call("write", (1,), "done", 0.0, 1.0)
>>> check([write, Call("read", (), 1, 2.0, 3.0)], register, None) is None
True
>>> print(check([write, Call("read", (), 0, 2.0, 3.0)], register, None))
after 1 of 2 calls, with the state 1, none of these can have come next:
  2.000000 to 3.000000: read() -> 0
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

#: What a specification returns for a call that can't have been answered so in that state.
IMPOSSIBLE: Final = object()


@dataclass(frozen=True)
class Call:
    """One call of a client, as that client saw it; times by a clock that all clients share, in seconds."""

    op: str
    args: tuple[Any, ...]
    #: None: it was never answered.
    answer: Any
    began: float
    #: Infinite where it was never answered.
    ended: float = math.inf

    @property
    def is_open(self) -> bool:
        """Whether nobody knows what came of it."""
        return self.ended == math.inf

    def __str__(self) -> str:
        said = ", ".join(map(repr, self.args))
        end = "?" if self.is_open else f"{self.ended:.6f}"
        return f"{self.began:.6f} to {end}: {self.op}({said}) -> {self.answer!r}"


#: The sequential specification of an object: the state after a call in a state, or IMPOSSIBLE where its answer would have
#: been another one. An open call was answered whatever it had to be.
Spec = Callable[[Any, Call], Any]


class Undecided(Exception):  # noqa: N818 - it reads as what happened
    """The search was given up: too many orders are possible."""


@dataclass(frozen=True)
class Violation:
    """Why no order of the calls explains their answers: how far the best of them got."""

    done: int
    calls: int
    state: Any
    #: The calls of which one would have had to be next.
    stuck: Sequence[Call]

    def __str__(self) -> str:
        stuck = "\n".join(f"  {call}" for call in self.stuck)
        return f"after {self.done} of {self.calls} calls, with the state {self.state!r}, none of these can have come next:\n{stuck}"


def check(calls: Sequence[Call], spec: Spec, initial: Hashable, *, most: int = 2_000_000) -> Violation | None:
    """Return None where some order of the calls explains all answers, else how far one gets. Raises Undecided after
    `most` steps.
    """
    search = _Search(calls)
    seen: set[tuple[int, Hashable]] = set()
    state: Any = initial
    path: list[tuple[int, Any, Iterator[int]]] = []
    turns = search.next_calls()
    best: Violation | None = None
    while search.left:
        for turn in turns:
            after = spec(state, search.calls[turn])
            if after is IMPOSSIBLE or (search.calls[turn].is_open and after == state):
                # An open call that changes nothing may as well never have come.
                continue
            search.take(turn)
            if (search.taken, after) in seen:
                search.put_back(turn)
                continue
            seen.add((search.taken, after))
            most -= 1
            path.append((turn, state, turns))
            state, turns = after, search.next_calls()
            break
        else:
            if best is None or search.done > best.done:
                best = Violation(search.done, len(calls), state, [search.calls[turn] for turn in search.next_calls()])
            if not path:
                return best
            turn, state, turns = path.pop()
            search.put_back(turn)
        if most <= 0:
            raise Undecided(f"no answer after {len(seen)} steps over {len(calls)} calls")
    return None


class _Search:
    """Which calls have been put in order, and which may come next. Those with an answer are a list in which each has a
    place.
    """

    def __init__(self, calls: Sequence[Call]) -> None:
        answered = sorted((call for call in calls if not call.is_open), key=lambda call: call.began)
        self.calls = [*answered, *(call for call in calls if call.is_open)]
        #: Answered calls that are not in order yet.
        self.left = len(answered)
        #: How many are, open ones too.
        self.done = 0
        #: Which: one bit each.
        self.taken = 0
        self._open = range(len(answered), len(self.calls))
        # A list whose first entry stands before all calls, so a call's entry is one further on.
        self._after = [*range(1, len(answered) + 1), -1]
        self._before = [-1, *range(len(answered))]

    def next_calls(self) -> Iterator[int]:
        """Those that began before any other that is left had ended: answered ones first."""
        found, first_end = [], math.inf
        at = self._after[0]
        while at != -1 and (call := self.calls[at - 1]).began <= first_end:
            found.append(at - 1)
            first_end = min(first_end, call.ended)
            at = self._after[at]
        found = [turn for turn in found if self.calls[turn].began <= first_end]
        still = [turn for turn in self._open if not self.taken >> turn & 1 and self.calls[turn].began <= first_end]
        return iter([*sorted(found, key=lambda turn: self.calls[turn].ended), *still])

    def take(self, turn: int) -> None:
        """Put a call next in order."""
        self.taken |= 1 << turn
        self.done += 1
        if turn not in self._open:
            self.left -= 1
            before, after = self._before[turn + 1], self._after[turn + 1]
            self._after[before] = after
            if after != -1:
                self._before[after] = before

    def put_back(self, turn: int) -> None:
        """Undo the last `take`."""
        self.taken &= ~(1 << turn)
        self.done -= 1
        if turn not in self._open:
            self.left += 1
            before, after = self._before[turn + 1], self._after[turn + 1]
            self._after[before] = turn + 1
            if after != -1:
                self._before[after] = turn + 1
