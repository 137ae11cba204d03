"""What the registry's objects do when nobody else is there: an alias, the numbers of an adapter, a job.

Each is one function for `checker.check`, from a state and a call to the next state.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from faults.linearizability.checker import IMPOSSIBLE, Call

# An alias: what it named, as a stack from which a rollback takes, and every move of it.

#: Kind, from and to of one move; 0 is nothing.
Move = tuple[str, int, int]


class Alias(NamedTuple):
    """One alias of an adapter, whose versions are all there."""

    stack: tuple[int, ...] = ()
    moves: tuple[Move, ...] = ()

    @property
    def number(self) -> int:
        """What it names."""
        return self.stack[-1] if self.stack else 0


def alias(state: Alias, call: Call) -> Any:
    """`set(number, expect)` and `rollback(expect)` answer with the number or "conflict"; `resolve()`, `history()`."""
    if call.op == "resolve":
        return _read(state, call, state.number)
    if call.op == "history":
        return _read(state, call, state.moves)
    if call.op == "set":
        number, expect = call.args
        stack = (*state.stack, number)
    else:
        (expect,) = call.args
        if not state.moves:
            return _read(state, call, "not_found")
        number = state.stack[-2] if len(state.stack) > 1 else 0
        stack = state.stack[:-1]
        if number == 0:
            return _read(state, call, "conflict")
    if expect is not None and expect != state.number:
        return _read(state, call, "conflict")
    if call.answer not in (None, number):
        return IMPOSSIBLE
    # What is set to where it is stays, and no line is written.
    return state if state.number == number else Alias(stack, (*state.moves, (call.op, state.number, number)))


# Numbers: contents in the order of their numbers. The same content again has the number that it has.

Numbers = tuple[str, ...]


def numbers(state: Numbers, call: Call) -> Any:
    """`publish(content)` answers with the number and whether it was there; `latest()` with the number; `list()` with
    all, each with its number."""
    if call.op == "latest":
        return _read(state, call, len(state))
    if call.op == "list":
        return _read(state, call, tuple(enumerate(state, start=1)))
    (content,) = call.args
    if content in state:
        return _read(state, call, (state.index(content) + 1, True))
    return (*state, content) if call.answer in (None, (len(state) + 1, False)) else IMPOSSIBLE


# A job: queued, held by an attempt until its lease is over, or ended.

#: Clocks of one machine run alike; this is for what is rounded.
_LEEWAY_S = 0.02


class Job(NamedTuple):
    """One job. Whoever has its last attempt holds it, as long as it runs."""

    state: str = "queued"
    attempt: int = 0
    #: Before this its lease is not over, by the clients' clock.
    held_until: float = 0.0


def job_of(lease_s: float) -> Any:
    """Return the specification of a job with leases of that length.

    `claim()` answers with the attempt; `heartbeat`, `release`, `fail` and `complete(attempt)` with "done" or "stale";
    `show()` with state and attempt.
    """

    def job(state: Job, call: Call) -> Any:
        if call.op == "show":
            return _shown(state, call)
        if call.op == "claim":
            free = state.state == "queued" or (state.state == "running" and _is_over(state, call))
            if not free or call.answer not in (None, state.attempt + 1):
                return IMPOSSIBLE
            return Job("running", state.attempt + 1, call.began + lease_s)
        (attempt,) = call.args
        holds = state.state == "running" and state.attempt == attempt
        if call.op == "complete" and state == Job("succeeded", attempt):
            # Its first answer was lost.
            return _read(state, call, "done")
        if not holds:
            return _read(state, call, "stale")
        if call.answer == "stale":
            # Its lease may be over and another process has seen to it, and nobody has claimed it since.
            return Job("queued", attempt) if _is_over(state, call) else IMPOSSIBLE
        if call.answer not in (None, "done"):
            return IMPOSSIBLE
        if call.op == "heartbeat":
            return state._replace(held_until=max(state.held_until, call.began + lease_s))
        return Job({"release": "queued", "fail": "failed", "complete": "succeeded"}[call.op], attempt)

    return job


def _is_over(state: Job, call: Call) -> bool:
    """Whether a lease can have run out before a call had ended."""
    return call.ended >= state.held_until - _LEEWAY_S


def _shown(state: Job, call: Call) -> Any:
    if call.answer is None or call.answer == (state.state, state.attempt):
        return state
    if state.state == "running" and call.answer == ("queued", state.attempt) and _is_over(state, call):
        return Job("queued", state.attempt)
    return IMPOSSIBLE


def _read(state: Any, call: Call, answer: Any) -> Any:
    """The same state, where the call was answered so."""
    return state if call.answer is None or call.answer == answer else IMPOSSIBLE
