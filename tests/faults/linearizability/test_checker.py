"""The search itself: it takes what can have happened, refuses what can't, and agrees with trying every order."""

from __future__ import annotations

import math
from itertools import combinations, permutations
from typing import Any

import pytest
from faults.linearizability.checker import IMPOSSIBLE, Call, Undecided, check
from faults.linearizability.specs import Alias, Job, alias, job_of, numbers
from hypothesis import given, settings
from hypothesis import strategies as st

LEASE_S = 10.0


def call(op: str, *args: Any, answer: Any = None, at: tuple[float, float] = (0, math.inf)) -> Call:
    return Call(op, args, answer, *at)


def _set(number: int, expect: int | None, answer: Any, at: tuple[float, float]) -> Call:
    return call("set", number, expect, answer=answer, at=at)


def _resolve(answer: int, at: tuple[float, float]) -> Call:
    return call("resolve", answer=answer, at=at)


OF_ALIASES: dict[str, tuple[bool, list[Call]]] = {
    "nothing": (True, []),
    "one after another": (True, [_set(1, 0, 1, (0, 1)), _set(2, 1, 2, (2, 3)), _resolve(2, (4, 5))]),
    "at once, in either order": (True, [_set(1, None, 1, (0, 3)), _set(2, None, 2, (0, 3)), _resolve(1, (4, 5))]),
    "read while it is written": (True, [_set(1, 0, 1, (0, 9)), _resolve(1, (1, 2)), _resolve(1, (3, 4))]),
    "read anew, then old again": (False, [_set(1, 0, 1, (0, 9)), _resolve(1, (1, 2)), _resolve(0, (3, 4))]),
    "a stale read": (False, [_set(1, 0, 1, (0, 1)), _set(2, 1, 2, (2, 3)), _resolve(1, (4, 5))]),
    "a lost update": (False, [_set(1, 0, 1, (0, 3)), _set(2, 0, 2, (0, 3))]),
    "a compare that lost": (True, [_set(1, 0, 1, (0, 3)), _set(2, 0, "conflict", (0, 3))]),
    "a compare that lost to nobody": (False, [_set(1, 0, "conflict", (0, 1))]),
    "a move that was never answered, and took effect": (True, [_set(1, 0, None, (0, math.inf)), _resolve(1, (4, 5))]),
    "the same, which never did": (True, [_set(1, 0, None, (0, math.inf)), _resolve(0, (4, 5))]),
    "the same, which did late": (
        True,
        [_set(1, 0, None, (0, math.inf)), _resolve(0, (4, 5)), _resolve(1, (6, 7)), _set(2, 1, 2, (8, 9))],
    ),
    "the same, which did twice": (
        False,
        [
            _set(1, None, None, (0, math.inf)),
            _resolve(1, (1, 2)),
            _set(2, None, 2, (3, 4)),
            _resolve(1, (5, 6)),
        ],
    ),
    "one that took effect before it was sent": (False, [_resolve(1, (0, 1)), _set(1, 0, None, (2, math.inf))]),
    "back and back": (
        True,
        [
            _set(1, 0, 1, (0, 1)),
            _set(2, 1, 2, (2, 3)),
            call("rollback", None, answer=1, at=(4, 5)),
            call("rollback", None, answer="conflict", at=(6, 7)),
            call("history", answer=(("set", 0, 1), ("set", 1, 2), ("rollback", 2, 1)), at=(8, 9)),
        ],
    ),
    "back to where it never was": (
        False,
        [_set(1, 0, 1, (0, 1)), _set(2, 1, 2, (2, 3)), call("rollback", None, answer=3, at=(4, 5))],
    ),
    "a move that is missing from the history": (
        False,
        [_set(1, 0, 1, (0, 1)), _set(2, 1, 2, (2, 3)), call("history", answer=(("set", 1, 2),), at=(8, 9))],
    ),
}


def _publish(content: str, answer: Any, at: tuple[float, float]) -> Call:
    return call("publish", content, answer=answer, at=at)


OF_NUMBERS: dict[str, tuple[bool, list[Call]]] = {
    "in turn": (True, [_publish("a", (1, False), (0, 1)), _publish("b", (2, False), (2, 3))]),
    "at once": (True, [_publish("a", (2, False), (0, 3)), _publish("b", (1, False), (0, 3))]),
    "again": (True, [_publish("a", (1, False), (0, 1)), _publish("a", (1, True), (2, 3))]),
    "one number for two": (False, [_publish("a", (1, False), (0, 3)), _publish("b", (1, False), (0, 3))]),
    "two numbers for one": (False, [_publish("a", (1, False), (0, 3)), _publish("a", (2, False), (0, 3))]),
    "a number that nobody has": (False, [_publish("a", (2, False), (0, 1))]),
    "a number of what was never answered": (
        True,
        [_publish("a", None, (0, math.inf)), _publish("b", (2, False), (2, 3)), call("latest", answer=2, at=(4, 5))],
    ),
    "a list with a hole": (
        False,
        [_publish("a", (1, False), (0, 1)), call("list", answer=(), at=(2, 3))],
    ),
}


def _claim(attempt: int | None, at: tuple[float, float]) -> Call:
    return call("claim", answer=attempt, at=at)


OF_JOBS: dict[str, tuple[bool, list[Call]]] = {
    "claimed, held, done": (
        True,
        [
            _claim(1, (0, 1)),
            call("heartbeat", 1, answer="done", at=(2, 3)),
            call("complete", 1, answer="done", at=(4, 5)),
            call("show", answer=("succeeded", 1), at=(6, 7)),
        ],
    ),
    "given to two": (False, [_claim(1, (0, 1)), _claim(2, (2, 3))]),
    "given to two as one attempt": (False, [_claim(1, (0, 3)), _claim(1, (0, 3))]),
    "given again once its lease is over": (True, [_claim(1, (0, 1)), _claim(2, (10, 11))]),
    "given again too early, since it was held": (
        False,
        [_claim(1, (0, 1)), call("heartbeat", 1, answer="done", at=(8, 9)), _claim(2, (10, 11))],
    ),
    "given again after its release": (
        True,
        [_claim(1, (0, 1)), call("release", 1, answer="done", at=(2, 3)), _claim(2, (3, 4))],
    ),
    "done by who had lost it": (
        False,
        [_claim(1, (0, 1)), _claim(2, (10, 11)), call("complete", 1, answer="done", at=(12, 13))],
    ),
    "done twice by one, whose first answer was lost": (
        True,
        [_claim(1, (0, 1)), call("complete", 1), call("complete", 1, answer="done", at=(4, 5))],
    ),
    "done by one and failed by another": (
        False,
        [
            _claim(1, (0, 1)),
            call("complete", 1, answer="done", at=(2, 3)),
            call("show", answer=("failed", 2), at=(4, 5)),
        ],
    ),
    "lost without anybody's claim": (
        True,
        [_claim(1, (0, 1)), call("show", answer=("queued", 1), at=(11, 12)), _claim(2, (12, 13))],
    ),
    "lost while it was held": (False, [_claim(1, (0, 1)), call("show", answer=("queued", 1), at=(3, 4))]),
    "a claim that nobody has an answer to": (True, [_claim(None, (0, math.inf)), _claim(2, (10, 11))]),
}


@pytest.mark.parametrize(
    ("spec", "initial", "name", "histories"),
    [
        *((alias, Alias(), name, OF_ALIASES) for name in OF_ALIASES),
        *((numbers, (), name, OF_NUMBERS) for name in OF_NUMBERS),
        *((job_of(LEASE_S), Job(), name, OF_JOBS) for name in OF_JOBS),
    ],
)
def test_known_histories_are_told_apart(spec: Any, initial: Any, name: str, histories: Any) -> None:
    may_be, history = histories[name]
    found = check(history, spec, initial)
    assert (found is None) == may_be, found


def _register(state: int, call: Call) -> Any:
    """A register that is written, read, and written by compare-and-set."""
    if call.op == "read":
        return state if call.answer in (None, state) else IMPOSSIBLE
    if call.op == "write":
        return call.args[0]
    expect, new = call.args
    took = state == expect
    return (new if took else state) if call.answer in (None, took) else IMPOSSIBLE


_VALUES = st.integers(0, 2)
_CALLS = st.one_of(
    st.tuples(st.just("read"), st.just(()), _VALUES),
    st.tuples(st.just("write"), st.tuples(_VALUES), st.just("done")),
    st.tuples(st.just("cas"), st.tuples(_VALUES, _VALUES), st.booleans()),
)


@st.composite
def _histories(draw: st.DrawFn) -> list[Call]:
    """Up to six calls; their times are few, so that many are made at once, and some are never answered."""
    history = []
    for op, args, answer in draw(st.lists(_CALLS, max_size=6)):
        began, took = draw(st.integers(0, 8)), draw(st.integers(0, 5))
        if draw(st.integers(0, 4)) == 0:
            history.append(Call(op, args, None, float(began)))
        else:
            history.append(Call(op, args, answer, float(began), began + took + 0.5))
    return history


def _by_trying(history: list[Call]) -> bool:
    """Whether any order of the answered calls, with any of the open ones among them, explains the answers."""
    answered = [call for call in history if not call.is_open]
    open_ones = [call for call in history if call.is_open]
    chosen = [some for count in range(len(open_ones) + 1) for some in combinations(open_ones, count)]
    return any(_explains(order) for some in chosen for order in permutations([*answered, *some]))


def _explains(order: tuple[Call, ...]) -> bool:
    state: Any = 0
    latest_start = -math.inf
    for call in order:
        if call.ended < latest_start:
            return False
        latest_start = max(latest_start, call.began)
        state = _register(state, call)
        if state is IMPOSSIBLE:
            return False
    return True


@settings(max_examples=400, deadline=None, derandomize=True)
@given(_histories())
def test_the_search_says_the_same_as_trying_every_order(history: list[Call]) -> None:
    assert (check(history, _register, 0) is None) == _by_trying(history)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=40), st.integers(0, 6), st.randoms(use_true_random=False)
)
def test_what_was_done_in_order_is_taken_however_the_calls_are_stretched(
    contents: list[str], stretch: int, random: Any
) -> None:
    state: tuple[str, ...] = ()
    history = []
    for at, content in enumerate(contents):
        existing = content in state
        state = state if existing else (*state, content)
        span = (at - random.random() * stretch, at + random.random() * stretch)
        history.append(_publish(content, (state.index(content) + 1, existing), span))
    assert check(history, numbers, ()) is None


def test_a_search_without_an_end_is_given_up() -> None:
    many = [call("set", number, None, at=(0, math.inf)) for number in range(1, 30)]
    wrong = [*many, call("history", answer=(("set", 0, 99),), at=(1, 2))]
    with pytest.raises(Undecided):
        check(wrong, alias, Alias(), most=2000)
