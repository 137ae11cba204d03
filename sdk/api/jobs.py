"""The client's side of jobs that were submitted: looking, watching, cancelling, trying again; and of the fleet."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import TYPE_CHECKING, cast

from sdk.api.catalog import CatalogClient
from sdk.errors import NotFound
from sdk.objects import Job
from sdk.schemas.catalog import Published
from sdk.schemas.events import Event
from sdk.schemas.jobs import AttemptView, CheckpointPublication, CheckpointView, JobView, QueueCapacity, WorkerView
from sdk.validation import build, check_job_id

if TYPE_CHECKING:
    from sdk.client import Client

#: A published checkpoint's files are hashed before it is one.
_PUBLISHING_S = 600.0


class TrackingClient(CatalogClient):
    """The part of a client that follows jobs."""

    def job(self, job_id: str) -> Job:
        """Return a job by its id. Raises NotFound."""
        return Job(self.job_view(job_id), cast("Client", self))

    def jobs(self, *, state: str | None = None, queue: str | None = None, limit: int = 50) -> list[Job]:
        """The last `limit` jobs, the newest first; of a state, or of the queue "gpu" or "cpu"."""
        page = max(1, min(limit, 500))
        views = islice(self.pages("/jobs", JobView, state=state, queue=queue, limit=page), limit)
        return [Job(view, cast("Client", self)) for view in views]

    def job_view(self, job_id: str) -> JobView:
        """What the registry says of a job now. Raises NotFound."""
        return self.call("GET", f"/jobs/{check_job_id(job_id)}", JobView)

    def job_events(self, job_id: str, *, after: int = 0, wait_s: float = 0, last: int | None = None) -> list[Event]:
        """Events after a cursor, only the `last` so many of them if given; waits up to `wait_s` seconds for one."""
        params = {"after": after, "wait_s": wait_s, "last": last}
        return self.call(
            "GET", f"/jobs/{check_job_id(job_id)}/events", list[Event], params=params, timeout_s=wait_s + 30
        )

    def cancel_job(self, job_id: str) -> JobView:
        """Cancel a job. Raises NotFound, NotAllowed, Conflict for one that has succeeded or failed."""
        return self.call("POST", f"/jobs/{check_job_id(job_id)}/cancel", JobView)

    def retry_job(self, job_id: str) -> Job:
        """Submit a failed or cancelled job once more; a training goes on from its last checkpoint.

        Raises NotFound, NotAllowed, Conflict for a job that has a result or goes on, QuotaExceeded.
        """
        view = self.call("POST", f"/jobs/{check_job_id(job_id)}/retry", JobView)
        return Job(view, cast("Client", self))

    def attempts(self, job_id: str) -> list[AttemptView]:
        """The attempts at a job, the first one first. Raises NotFound."""
        return self.call("GET", f"/jobs/{check_job_id(job_id)}/attempts", list[AttemptView])

    def checkpoints(self, job_id: str) -> list[CheckpointView]:
        """The checkpoints of a training that are stored, the newest first. Raises NotFound."""
        return self.call("GET", f"/jobs/{check_job_id(job_id)}/checkpoints", list[CheckpointView])

    def publish_checkpoint(
        self,
        job_id: str,
        step: int | None = None,
        *,
        adapter: str | None = None,
        tags: Mapping[str, str] | None = None,
        description: str = "",
    ) -> Published:
        """Publish the adapter of a checkpoint, of the last one where no `step` is given; waits until it has its number.

        It becomes a version of `adapter`, else of the one that the job trains. The same bytes again give the existing
        version. Raises NotFound, InvalidName, InvalidInput, NotAllowed, VerificationFailed.
        """
        body = build(CheckpointPublication, adapter=adapter, tags=dict(tags or {}), description=description)
        if step is None:
            found = self.checkpoints(job_id)
            if not found:
                raise NotFound(f"job {job_id} has no checkpoint; see: adapterctl jobs show {job_id}", param="step")
            step = found[0].step
        path = f"/jobs/{check_job_id(job_id)}/checkpoints/{step}/publish"
        return self.call("POST", path, Published, body=body, timeout_s=_PUBLISHING_S)

    def workers(self) -> list[WorkerView]:
        """The workers that were heard of in the last week, by name; memory in bytes."""
        return self.call("GET", "/workers", list[WorkerView])

    def capacity(self) -> list[QueueCapacity]:
        """Each queue as it is now: what waits, what runs, who could take it; ages in seconds."""
        return self.call("GET", "/capacity", list[QueueCapacity])
