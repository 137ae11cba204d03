"""Asks the registry whether a training of a sweep goes on after a rung, and hands the answer down to the child.

A thread of its own asks, while the child waits for a moment and then trains on. A registry that is away is asked again
until the training ends; one that refuses to answer lets the training go on.
"""

from __future__ import annotations

import logging
from types import TracebackType

from sdk.api import work
from sdk.client import Client
from sdk.errors import AdapterctlError, StaleAttempt, Unavailable
from sdk.schemas.sweeps import RungAnswer, RungReached
from sdk.whole_files import write_whole
from workers.background import Background
from workers.child.protocol import ReachedRung, answer_file
from workers.kinds.attempt import Attempt
from workers.lease.heartbeat import apart

#: The child waits for an answer a quarter of the lease, as long as a heartbeat may take, but no longer than this, in seconds.
_LONGEST_WAIT_S = 5.0
_REQUEST_S = 10.0
#: The pause before a registry that was away is asked again.
_AGAIN_S = 1.0
#: How long to wait for the end of a request that is no longer needed.
_LEAVE_S = 5.0

_log = logging.getLogger(__name__)


def wait_s(lease_s: float) -> float:
    """Return how long a child waits for the answer at a rung, in seconds."""
    return min(lease_s / 4, _LONGEST_WAIT_S)


class RungAnswers:
    """Asks for the children of one attempt, from `with` to its end."""

    def __init__(self, attempt: Attempt, *, again_s: float = _AGAIN_S) -> None:
        self._attempt = attempt
        self._again_s = again_s
        #: Its guard is that of the attributes below.
        self._background = Background(self._work, name="rungs")
        self._open: dict[int, ReachedRung] = {}
        #: Whether it was said that there is no answer.
        self._told = False

    def __enter__(self) -> RungAnswers:
        self._background.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._background.end(_LEAVE_S)

    def reached(self, rung: ReachedRung) -> None:
        """Ask about a rung, unless the child before this one was told already."""
        if not (self._attempt.folder / answer_file(rung.number)).exists():
            with self._background.changing():
                self._open[rung.number] = rung

    def _work(self) -> None:
        if self._next() is None:
            return
        with apart(self._attempt.client) as client:
            while (rung := self._next()) is not None:
                is_answered = self._answer(client, rung)
                with self._background.changed:
                    if is_answered:
                        del self._open[rung.number]
                    else:
                        self._background.changed.wait_for(lambda: self._is_over, self._again_s)

    @property
    def _is_over(self) -> bool:
        return self._background.over or self._attempt.lease.lost

    def _next(self) -> ReachedRung | None:
        """Wait for the first rung without an answer; None at the end."""
        with self._background.changed:
            self._background.changed.wait_for(lambda: self._open or self._is_over)
            return None if self._is_over else self._open[min(self._open)]

    def _answer(self, client: Client, rung: ReachedRung) -> bool:
        """Hand an answer down; return whether there is one."""
        assignment = self._attempt.assignment
        reached = RungReached(attempt=assignment.attempt, rung=rung.number, step=rung.step, loss=rung.loss)
        try:
            answer = work.ask_at_rung(client.transport, assignment.job, reached, timeout_s=_REQUEST_S)
        except StaleAttempt:
            self._attempt.lease.lose()
            return False
        except Unavailable as error:
            self._tell(f"whether the training continues after step {rung.step} is asked again later: {error}")
            return False
        except (AdapterctlError, OSError, ValueError) as error:
            self._tell(f"the training continues after step {rung.step}, since its sweep gives no answer: {error}")
            answer = RungAnswer(goes_on=True)
        try:
            write_whole(self._attempt.folder / answer_file(rung.number), answer.model_dump_json(), durable=False)
        except OSError as error:
            self._tell(f"the answer to step {rung.step} can't be handed down ({error.strerror})")
            return False
        return True

    def _tell(self, message: str) -> None:
        _log.info(message)
        if not self._told:
            self._told = True
            self._attempt.lease.log(message)
