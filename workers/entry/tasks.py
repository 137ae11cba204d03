"""What a message starts, in the pool process."""

from __future__ import annotations

import functools
import os
import signal

from workers.entry import service
from workers.entry.celery_app import app
from workers.entry.hints import TASK
from workers.entry.runner import Worker
from workers.node.shutdown import Shutdown
from workers.settings import WorkerSettings


@functools.cache
def _shutdown() -> Shutdown:
    settings = WorkerSettings.from_env()
    return Shutdown(grace_s=settings.grace_s, file=settings.stop_file)


@functools.cache
def _worker() -> Worker:
    """The worker of this process, whose spare child outlives a task."""
    return Worker(WorkerSettings.from_env(), _shutdown())


def begin() -> None:
    """Make this process ready for its first task."""
    _worker().sweep()
    _worker().spare.prepare()


@app.task(name=TASK)  # type: ignore[untyped-decorator]
def work(hint: str) -> None:
    """Work off what there is, beginning with the hinted job."""
    shutdown = _shutdown()
    # The pool's own handler would end this process amid a job.
    with shutdown.on_signals(signal.SIGTERM):
        try:
            service.drain(_worker(), shutdown, hint)
        except Exception as error:  # noqa: BLE001 - the pool process is there for the next message
            # The job still waits, and the registry will say so again.
            service.tell(error)
    if shutdown.by_signal_alone:
        # Somebody wants this process replaced; only now may it end.
        os.kill(os.getpid(), signal.SIGTERM)
