"""Jobs as callers see them: submitting, watching, cancelling, retrying."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable, Mapping
from typing import Generic, TypeVar

from sdk.api.transport import Transport, keyed, pages
from sdk.errors import NotFound
from sdk.given_values import build
from sdk.names import check_job_id, is_job_beginning
from sdk.notebook.table_list import TableList
from sdk.schemas.catalog import Published
from sdk.schemas.events import Event
from sdk.schemas.jobs import AttemptView, CheckpointPublication, CheckpointView, JobSubmission, JobView
from sdk.schemas.series import Series, joined

#: A checkpoint's files are hashed before it becomes a version.
_PUBLISHING_S = 600.0
#: How long a request for events may take beyond its waiting time.
_ANSWERING_S = 30.0

J = TypeVar("J")


def submit(transport: Transport, submission: JobSubmission, *, key: str | None) -> JobView:
    """Submit a job; the same idempotency key again gives the same job. Raises InvalidInput, NotFound, QuotaExceeded."""
    return transport.call("POST", "/jobs", JobView, body=submission, headers=keyed(key))


def get(transport: Transport, job_id: str) -> JobView:
    """Return the current state of a job, also by 6 or more characters that its id begins with. Raises NotFound, InvalidInput."""
    return transport.call("GET", f"/jobs/{check_job_id(job_id)}", JobView)


class JobsAPI(Generic[J]):
    """Jobs. Called, it lists the last ones."""

    # `made` is what jobs are given out as.
    def __init__(self, transport: Transport, made: Callable[[JobView], J]) -> None:
        self._transport, self._made = transport, made

    def __call__(self, *, state: str | None = None, queue: str | None = None, limit: int = 50) -> builtins.list[J]:
        """The last `limit` jobs, newest first; optionally only one state, or one queue, "gpu" or "cpu"."""
        views = pages(self._transport, "/jobs", JobView, params={"state": state, "queue": queue}, limit=limit)
        return TableList(self._made(view) for view in views)

    list = __call__

    def view(self, job_id: str) -> JobView:
        """What the registry says about a job now. Raises NotFound."""
        return get(self._transport, job_id)

    def events(
        self, job_id: str, *, after: int = 0, wait_s: float = 0, last: int | None = None
    ) -> builtins.list[Event]:
        """Events after a cursor, or only the `last` few; waits up to `wait_s` seconds for one."""
        path, params = f"/jobs/{self._whole(job_id)}/events", {"after": after, "wait_s": wait_s, "last": last}
        return self._transport.call("GET", path, list[Event], params=params, timeout_s=wait_s + _ANSWERING_S)

    def cancel(self, job_id: str) -> JobView:
        """Cancel a job. Raises NotFound, NotAllowed, Conflict for one that has succeeded or failed."""
        return self._transport.call("POST", f"/jobs/{self._whole(job_id)}/cancel", JobView)

    def retry(self, job_id: str, *, advice: bool = False, idempotency_key: str | None = None) -> J:
        """Submit a failed or cancelled job again; a training resumes from its last checkpoint.

        With `advice`, a training that has ended begins anew, changed as its own numbers advise. The same key gives the same new
        job. Raises NotFound, NotAllowed, Conflict for a job that has a result or is still running, or has no advice, QuotaExceeded.
        """
        path, params = f"/jobs/{self._whole(job_id)}/retry", {"advice": advice or None}
        return self._made(self._transport.call("POST", path, JobView, params=params, headers=keyed(idempotency_key)))

    def attempts(self, job_id: str) -> builtins.list[AttemptView]:
        """The attempts at a job, oldest first. Raises NotFound."""
        return TableList(self._transport.call("GET", f"/jobs/{self._whole(job_id)}/attempts", list[AttemptView]))

    def checkpoints(self, job_id: str) -> builtins.list[CheckpointView]:
        """The stored checkpoints of a training, newest first. Raises NotFound."""
        return TableList(self._transport.call("GET", f"/jobs/{self._whole(job_id)}/checkpoints", list[CheckpointView]))

    def series(self, job_id: str, *, buckets: int | None = None, keys: Iterable[str] | None = None) -> Series:
        """What a training measured, by step: the newest steps one by one and older ones in buckets, or each series in at
        most so many `buckets`. `keys` are the names of the series, all if left out. Raises NotFound, InvalidInput.
        """
        params = {"buckets": buckets, "keys": joined(keys)}
        return self._transport.call("GET", f"/jobs/{self._whole(job_id)}/series", Series, params=params)

    def series_of(
        self, job_ids: Iterable[str], *, buckets: int = 100, keys: Iterable[str] | None = None
    ) -> builtins.list[Series]:
        """The series of up to 100 trainings, reduced; those that don't exist, or may not be seen, are left out."""
        params = {"jobs": ",".join(self._whole(job) for job in job_ids), "buckets": buckets, "keys": joined(keys)}
        return self._transport.call("GET", "/series", list[Series], params=params)

    def publish_checkpoint(
        self,
        job_id: str,
        step: int | None = None,
        *,
        adapter: str | None = None,
        tags: Mapping[str, str] | None = None,
        description: str = "",
    ) -> Published:
        """Publish the adapter of a checkpoint, by default the last one; waits until it has its number.

        It becomes a version of `adapter`, by default the one that the job trains. The same bytes again give the
        existing version. Raises NotFound, InvalidName, InvalidInput, NotAllowed, VerificationFailed.
        """
        publication = build(CheckpointPublication, adapter=adapter, tags=dict(tags or {}), description=description)
        at = self._newest_step(job_id) if step is None else step
        path = f"/jobs/{self._whole(job_id)}/checkpoints/{at}/publish"
        return self._transport.call("POST", path, Published, body=publication, timeout_s=_PUBLISHING_S)

    def _whole(self, job_id: str) -> str:
        """The id of a job, also by its beginning. Raises NotFound, InvalidInput for a beginning of several."""
        return get(self._transport, job_id).id if is_job_beginning(job_id) else check_job_id(job_id)

    def _newest_step(self, job_id: str) -> int:
        found = self.checkpoints(job_id)
        if not found:
            raise NotFound(f"job {job_id} has no checkpoint; see: adapterctl jobs show {job_id}", param="step")
        return found[0].step
