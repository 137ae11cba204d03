"""Workers and queues, as the registry knows them now."""

from __future__ import annotations

from datetime import datetime

from sdk.schemas.wire import Wire
from sdk.schemas.work import ScorerInfo


class WorkerView(Wire):
    """A worker as the registry knows it. Workers of two tokens with the same name are two workers."""

    name: str
    #: The id of its token; None if the registry asks for none.
    token: str | None = None
    device: str
    memory_bytes: int
    free_memory_bytes: int
    #: Fingerprints; empty if the worker also works in namespaces that the caller may not read.
    cached_bases: list[str]
    queues: list[str]
    version: str
    #: Users' own scorers that it has; None if it doesn't say, or also works in namespaces that the caller may not read.
    scorers: list[ScorerInfo] | None = None
    #: "busy", "idle", "draining" while it shuts down, or "silent" if nothing was heard from it for a while.
    state: str
    job: str | None
    seen_at: datetime


class QueueCapacity(Wire):
    """One queue, as it is now."""

    queue: str
    queued: int
    running: int
    #: Workers that listen to it and are not silent.
    workers: int
    idle: int
    #: Age of the job that has waited longest, in seconds.
    oldest_s: float | None
    #: Queued jobs that no recently seen worker can run.
    unfit: int
