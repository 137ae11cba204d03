"""Something that happens between the verdict and the move: a kind of rule that asks for nothing, and takes its time."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from typing import Any

from registry.promotion.question import Bench, Question, StandingPolicy
from sdk.schemas.decisions import RuleOutcome
from sdk.schemas.job_requests import EvaluationRequest


@dataclass(frozen=True)
class _Pause:
    """A rule's inputs, which are the same for the whole of one pause, and in no other."""

    identity: int
    during: Callable[[], None]
    missing: Sequence[EvaluationRequest] = ()
    until_s: float = inf

    def judge(self, bench: Bench) -> Sequence[RuleOutcome]:
        """Let happen what was to happen."""
        self.during()
        return []


class Meanwhile:
    """A family of rules. What it is given happens once, while the verdict of a move of the same thread is found."""

    def __init__(self) -> None:
        self._now = threading.local()

    def __call__(self, session: Any, question: Question, policy: StandingPolicy) -> _Pause | None:
        """Read nothing."""
        during = getattr(self._now, "during", None)
        return None if during is None else _Pause(self._now.number, during)

    @contextmanager
    def happens(self, what: Callable[[], None]) -> Iterator[list[bool]]:
        """Let this happen in the verdict of the next move in the block; the list is not empty if it did."""
        done: list[bool] = []

        def once() -> None:
            if not done:
                done.append(True)
                what()

        self._now.during, self._now.number = once, secrets.randbits(63)
        try:
            yield done
        finally:
            self._now.during = None
