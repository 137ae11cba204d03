"""Following a sweep to its end, even while the registry is unavailable."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from sdk.api import sweeps
from sdk.api.jobs import JobsAPI
from sdk.api.transport import Transport
from sdk.errors import Incompatible, TimedOut, Unavailable
from sdk.schemas.jobs import JobState, JobView
from sdk.schemas.series import MOST_JOBS, Series
from sdk.schemas.sweeps import HELD_OUT_LOSS, SweepMember, SweepState, SweepView

#: Pause between two rounds of requests, and after one without an answer, in seconds.
_ROUND_S, _AWAY_S = 1.0, 2.0
#: How many running jobs are asked for, those of others among them.
_MOST_RUNNING = 200
_TRAINING = "train"


@dataclass(frozen=True)
class MemberStanding:
    """How far one member is."""

    member: SweepMember
    #: Steps that are done, and how many there will be; None: not known yet.
    step: int | None = None
    total: int | None = None
    #: The last held-out loss.
    loss: float | None = None
    phase: str = ""


@dataclass(frozen=True)
class SweepProgress:
    """How far a sweep is: what the registry says, and where its members are."""

    view: SweepView
    members: list[MemberStanding]

    @property
    def ended(self) -> int:
        """How many members have ended."""
        return sum(JobState(one.member.state).is_final for one in self.members)

    @property
    def steps(self) -> int:
        """Steps that all members have done."""
        return sum(one.step or 0 for one in self.members)

    @property
    def best(self) -> MemberStanding | None:
        """The member with the least held-out loss so far."""
        return min((one for one in self.members if one.loss is not None), key=lambda one: one.loss or 0.0, default=None)

    @property
    def steps_per_s(self) -> float | None:
        """Steps of all members in a second, since the sweep began."""
        passed = (datetime.now(UTC) - self.view.created_at).total_seconds()
        return self.steps / passed if passed > 0 and self.steps else None

    @property
    def left_s(self) -> float | None:
        """How long all members will take, if they go on as fast; None: nobody knows."""
        totals = [one.total for one in self.members if one.total]
        rate, most = self.steps_per_s, self.view.most_members
        if rate is None or not totals or most is None:
            return None
        each = sum(totals) / len(totals)
        ahead = (most - len(self.members)) * each
        ahead += sum(
            (one.total or each) - (one.step or 0) for one in self.members if not JobState(one.member.state).is_final
        )
        return max(0.0, ahead) / rate


class ProgressLines:
    """Called with how far a sweep is, writes that to standard error as a line, unless it says what the last one said."""

    def __init__(self) -> None:
        self._last = ""

    def __call__(self, progress: SweepProgress) -> None:
        """Write the line."""
        view, best = progress.view, progress.best
        line = f"sweep {view.id} {view.state.value}: {progress.ended} of {view.most_members or '?'} members have ended"
        if best is not None and best.loss is not None:
            line += f"; the lowest held-out loss is {best.loss:.4g}, of member {best.member.number}"
        if line != self._last:
            self._last = line
            sys.stderr.write(f"{line}\n")


def follow_sweep(
    transport: Transport, sweep_id: str, *, note: Callable[[str], None], timeout_s: float | None = None
) -> Iterator[SweepProgress]:
    """Yield how far a sweep is, about once a second, until it has ended.

    `note` is told if the registry is unavailable, and requests are repeated until it answers. Raises TimedOut, and other
    errors of the registry.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    answers = True
    while True:
        pause_s = _ROUND_S
        try:
            progress = standing_of(transport, sweep_id)
        except Incompatible:
            raise
        except Unavailable as error:
            if answers:
                note(f"{error.message}; still trying")
            answers, pause_s = False, _AWAY_S
        else:
            if not answers:
                note("the registry answers again")
            answers = True
            yield progress
            if progress.view.state in (SweepState.ENDED, SweepState.CANCELLED):
                return
        left = float("inf") if deadline is None else deadline - time.monotonic()
        if left <= 0:
            raise TimedOut(
                f"sweep {sweep_id} has not ended in time; it goes on: adapterctl sweep show {sweep_id} --watch"
            )
        time.sleep(min(left, pause_s))


def standing_of(transport: Transport, sweep_id: str) -> SweepProgress:
    """Return how far a sweep and its members are now. Raises NotFound."""
    view = sweeps.get(transport, sweep_id)
    at_work = [member.job for member in view.members if member.state == JobState.RUNNING][:MOST_JOBS]
    if not at_work:
        return SweepProgress(view, [_standing(member, None, None) for member in view.members])
    jobs: JobsAPI[JobView] = JobsAPI(transport, lambda found: found)
    running = {job.id: job for job in jobs(state=JobState.RUNNING.value, limit=_MOST_RUNNING)}
    looks = {one.job: _last(one) for one in jobs.series_of(at_work, buckets=1, keys=[HELD_OUT_LOSS])}
    return SweepProgress(
        view, [_standing(member, running.get(member.job), looks.get(member.job)) for member in view.members]
    )


def _last(series: Series) -> float | None:
    """Return the last held-out loss."""
    found = series.series.get(HELD_OUT_LOSS)
    return None if found is None or not found.last else found.last[-1]


def _standing(member: SweepMember, job: JobView | None, loss: float | None) -> MemberStanding:
    if job is None or job.progress is None:
        found = member.metrics.get(HELD_OUT_LOSS)
        return MemberStanding(member, member.steps, member.steps, found if loss is None else loss)
    progress = job.progress
    trains = progress.phase == _TRAINING
    step, total = (progress.step, progress.total) if trains else (None, None)
    return MemberStanding(member, step, total, loss, progress.phase)
