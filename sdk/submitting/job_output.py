"""Following jobs to their end, even while the registry is unavailable."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

from sdk.errors import Incompatible, TimedOut, Unavailable
from sdk.schemas.events import Event
from sdk.schemas.jobs import JobState

#: How long one request waits for events, in seconds, when following one job; several jobs are asked about in turn.
_POLL_S = 10.0
#: Pause between two rounds of requests about several jobs, in seconds.
_ROUND_S = 0.5
#: Pause after a request without an answer, in seconds.
_AWAY_S = 2.0


class Followed(Protocol):
    """What is followed: a job."""

    @property
    def id(self) -> str:
        """Its id."""

    @property
    def state(self) -> JobState:
        """Its state now."""

    def poll_events(self, *, after: int = 0, wait_s: float = 0, last: int | None = None) -> list[Event]:
        """Return events after the cursor `after`."""


J = TypeVar("J", bound=Followed)


def follow(
    jobs: Sequence[J],
    *,
    note: Callable[[str], None],
    timeout_s: float | None = None,
    after: int = 0,
    last: int | None = None,
) -> Iterator[tuple[J, Event | None]]:
    """Yield what happens to jobs until all have ended: (job, event), and (job, None) for a job without news.

    Begins with each job's `last` few events, or with all after the cursor `after`. `note` is told if the registry is
    unavailable, and requests are repeated until it answers. Raises TimedOut, and other errors of the registry.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    seen = {job.id: after for job in jobs}
    followed = list(jobs)
    answers = True
    while followed:
        news = False
        for job in list(followed):
            wait_s = _POLL_S if len(followed) == 1 else 0.0
            try:
                since = seen[job.id]
                left = _left(deadline, followed)
                found = job.poll_events(after=since, wait_s=min(left, wait_s), last=None if since else last)
                ended = not found and job.state.is_final
            except Incompatible:
                raise
            except Unavailable as error:
                if answers:
                    note(f"{error.message}; still trying")
                answers = False
                time.sleep(min(_left(deadline, followed), _AWAY_S))
                break
            if not answers:
                note("the registry answers again")
                answers = True
            for event in found:
                seen[job.id] = event.seq
                yield job, event
            if ended:
                followed.remove(job)
            if not found:
                yield job, None
            news = news or bool(found)
        else:
            if len(followed) > 1 and not news:
                time.sleep(min(_left(deadline, followed), _ROUND_S))


def _left(deadline: float | None, followed: Sequence[Followed]) -> float:
    """Seconds until the deadline. Raises TimedOut."""
    left = float("inf") if deadline is None else deadline - time.monotonic()
    if left <= 0:
        ids = " ".join(job.id for job in followed)
        said = (
            f"job {ids} has not ended in time; it is still running"
            if len(followed) == 1
            else "some jobs have not ended in time"
        )
        raise TimedOut(f"{said}: adapterctl jobs watch {ids}")
    return left
