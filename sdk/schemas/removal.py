"""Retention rules, and what garbage collection removes, as sent over the API."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from sdk.schemas.wire import Wire


class RetentionRule(Wire):
    """Which ready and archived versions of an adapter `gc` keeps: those that match either part, and those that an alias
    names.
    """

    #: How many of the newest ready versions are kept.
    keep_last: Annotated[int, Field(ge=1, le=1_000_000, examples=[10])] | None = None
    #: Versions made within this many days are kept.
    keep_days: Annotated[int, Field(ge=1, le=36_500, examples=[90])] | None = None

    @model_validator(mode="after")
    def _says_something(self) -> RetentionRule:
        if self.keep_last is None and self.keep_days is None:
            raise ValueError("a retention rule needs keep_last, keep_days or both")
        return self


class RetentionView(Wire):
    """The retention rule of an adapter; None: all of its versions are kept."""

    adapter: str
    rule: RetentionRule | None


class GcRequest(Wire):
    """A request to collect garbage."""

    #: Whether to only report what would be removed.
    dry_run: bool
    #: Files given up less than this many hours ago are kept.
    grace_hours: Annotated[int, Field(ge=0, le=8760)] = 24
    #: Merged models that aren't versions, and whose job ended more than this many days ago, are removed too; None: they
    #: are kept forever.
    keep_merged_days: Annotated[int, Field(ge=1, le=36_500)] | None = None


class StrayBlobs(Wire):
    """Bytes in storage that the database does not know; they are removed."""

    count: int
    size_bytes: int
    #: The first 100.
    digests: list[str]


class MissingBlobs(Wire):
    """Bytes that the database expects but the storage does not have; they are only reported."""

    count: int
    #: The first 100.
    digests: list[str]
    #: Refs of the first 100 versions that have one of `digests`.
    versions: list[str]


class GcReport(Wire):
    """What a collection removed, or would remove."""

    dry_run: bool
    #: Refs of the versions that their adapters' retention rules gave up.
    retired_versions: list[str]
    #: Publications that never ended, now failed.
    failed_pending: int
    manifests: int
    #: Blobs that nothing referred to any more.
    blobs: int
    #: The bytes of blobs and strays together.
    freed_bytes: int
    blobs_without_row: StrayBlobs
    rows_without_blob: MissingBlobs
    #: How many remnants of interrupted uploads were removed.
    partial_uploads: int
    expired_uploads: int
    #: Idempotency keys of claims and new tokens, older than 7 days.
    keyed_requests: int
