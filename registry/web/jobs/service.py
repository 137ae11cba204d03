"""All that the page of a job shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from registry.db.database import Database
from registry.errors import NotFound
from registry.jobs import events
from registry.jobs.checkpoints import StoredCheckpoints
from registry.jobs.lines import JobLine, JobLines
from registry.jobs.service import Jobs
from registry.principal import Principal
from sdk.schemas.advice import changes_of
from sdk.schemas.events import Event
from sdk.schemas.jobs import AttemptView, CheckpointView, JobState, JobView

#: How many of its last events, attempts and checkpoints are shown.
_EVENTS, _ATTEMPTS, _CHECKPOINTS = 200, 50, 20


@dataclass(frozen=True)
class ShownJob:
    """A job, with what its page has beside it."""

    view: JobView
    line: JobLine
    #: The newest event of any job, before anything was read.
    newest: int
    attempts: list[AttemptView]
    checkpoints: list[CheckpointView]
    events: list[Event]
    #: What was changed from the job that it repeats, by option: before and after.
    changed: dict[str, tuple[Any, Any]]

    @property
    def advised(self) -> dict[str, Any]:
        """What its advice would change."""
        return changes_of(self.view.advice)

    @property
    def is_of_sweep(self) -> bool:
        """Whether it belongs to a sweep, whose members are not tried again."""
        return self.line.sweep is not None

    @property
    def may_be_retried(self) -> bool:
        """Whether it has ended without a result, and may be submitted again."""
        return not self.is_of_sweep and self.view.state in (JobState.FAILED, JobState.CANCELLED)

    @property
    def may_be_advised(self) -> bool:
        """Whether it may be run again as it is advised."""
        return not self.is_of_sweep and self.view.state.is_final and bool(self.advised)


class JobPages:
    """What pages show of one job."""

    def __init__(self, db: Database, lines: JobLines, jobs: Jobs, checkpoints: StoredCheckpoints) -> None:
        self._db, self._lines, self._jobs, self._checkpoints = db, lines, jobs, checkpoints

    def read(self, job_id: str, *, who: Principal) -> ShownJob:
        """Return a job that the reader may see. Raises NotFound."""
        newest = self._lines.newest()
        view = self._jobs.get(job_id, who=who)
        found = self._lines.of([job_id])
        if not found:
            raise NotFound(f"there is no job {job_id[:64]!a}; list them with: adapterctl jobs list", param="job")
        last, _ = events.read(self._db, job_id=job_id, after=0, limit=_EVENTS, last=_EVENTS, who=who)
        return ShownJob(
            view=view,
            line=found[0],
            newest=newest,
            attempts=self._jobs.attempts(job_id, who=who)[-_ATTEMPTS:],
            checkpoints=self._checkpoints.list(job_id, who=who)[:_CHECKPOINTS] if view.kind == "training" else [],
            events=last,
            changed=self._changed(view, who),
        )

    def _changed(self, view: JobView, who: Principal) -> dict[str, tuple[Any, Any]]:
        if view.retry_of is None or view.kind != "training":
            return {}
        try:
            earlier = self._jobs.get(view.retry_of, who=who)
        except NotFound:
            return {}
        was, now = (one.request.get("spec") or {} for one in (earlier, view))
        return {name: (was.get(name), value) for name, value in now.items() if was.get(name) != value}
