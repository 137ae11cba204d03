"""The legal moves of a job. Its states are `sdk.schemas.jobs.JobState`."""

from __future__ import annotations

from sdk.schemas.jobs import JobState

MOVES: dict[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.CANCELLED, JobState.FAILED}),
    # Back to queued when its worker is lost.
    JobState.RUNNING: frozenset({JobState.QUEUED, JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED}),
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELLED: frozenset(),
}

#: States from which nothing moves.
FINAL = tuple(state for state in JobState if state.is_final)
#: Those of jobs that wait or run.
UNFINISHED = tuple(state for state in JobState if not state.is_final)
