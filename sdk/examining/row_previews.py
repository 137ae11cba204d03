"""Previews of rows: by the worker's libraries on this machine, or by a job if these, or the base's files, are missing
here.
"""

from __future__ import annotations

from collections.abc import Callable

from sdk.objects import Job, Registry
from sdk.schemas.catalog import VersionView
from sdk.schemas.preview import Preview
from sdk.submitting.data_preview import RowsOfFile, can_be_here, preview_here
from sdk.submitting.job_options import JobOptions


def preview_rows(
    registry: Registry,
    asked: RowsOfFile | str,
    *,
    rows: int,
    row: int | None,
    on_job: Callable[[Job[Preview]], object] | None,
) -> Preview:
    """Return what a training learns from rows of a file, or what a version's training learned from its rows; see
    `Client.preview`.
    """
    transport, cache = registry.transport, registry.cache
    found = _rows_or_version(registry, asked)
    if transport.config.home is None and not can_be_here(transport, cache, found):
        view = registry.submitter.preview(found, rows=rows, row=row, job_options=JobOptions(0), key=None)
        job: Job[Preview] = Job(view, registry)
        if on_job is not None:
            on_job(job)
        return job.result()
    return preview_here(
        transport, cache, found, rows=rows, row=row, http=registry.http, on_transfer=registry.on_transfer
    )


def submit_preview(
    registry: Registry,
    asked: RowsOfFile | str,
    *,
    rows: int,
    row: int | None,
    priority: int,
    key: str | None,
) -> Job[Preview]:
    """Have a worker do the work of `preview_rows`, and return immediately."""
    found = _rows_or_version(registry, asked)
    return Job(
        registry.submitter.preview(found, rows=rows, row=row, job_options=JobOptions(priority), key=key), registry
    )


def _rows_or_version(registry: Registry, asked: RowsOfFile | str) -> RowsOfFile | VersionView:
    return asked if isinstance(asked, RowsOfFile) else registry.get(asked).info
