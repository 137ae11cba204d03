"""A worker that learns of work from a broker: Celery listens in the main thread, and its pool's only thread works."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from types import FrameType
from typing import Any

from celery import signals

from workers.entry.celery_app import app
from workers.entry.hints import TASK
from workers.entry.runner import Worker
from workers.entry.service import drain, present, tell
from workers.node.shutdown import Shutdown
from workers.settings import WorkerSettings

#: How long the process may take to end after a second signal, in seconds. Celery would wait for its pool forever.
_LAST_RESORT_S = 10


def work_on_hints(settings: WorkerSettings) -> None:
    """Work whenever a hint comes, until a signal ends this. Called in the main thread, once per process."""
    shutdown = Shutdown(grace_s=settings.grace_s)
    worker = Worker(settings, shutdown)

    @app.task(name=TASK)  # type: ignore[untyped-decorator]
    def work(hint: str) -> None:
        """Do all available jobs, beginning with the hinted one."""
        try:
            drain(worker, shutdown, hint)
        except Exception as error:  # noqa: BLE001 - the worker is there for the next message
            # The job still waits, and the registry will announce it again.
            tell(error)

    with ExitStack() as stack:
        stack.callback(worker.end)

        def on_ready(**_: Any) -> None:
            # Each of Celery's own handlers for these would do something else.
            for number in (signal.SIGINT, signal.SIGQUIT):
                signal.signal(number, signal.getsignal(signal.SIGTERM))
            signal.signal(signal.SIGALRM, _end_now)
            stack.enter_context(present(settings, shutdown))

        def on_signal(**_: Any) -> None:
            shutdown.ask()
            if shutdown.at_once:
                signal.alarm(_LAST_RESORT_S)

        signals.setup_logging.connect(_leave_logging_alone)
        signals.worker_ready.connect(on_ready, weak=False)
        signals.worker_shutting_down.connect(on_signal, weak=False)
        worker.sweep()
        worker.warm_child.prepare()
        app.worker_main(
            [
                "worker",
                f"--queues={','.join(settings.queues)}",
                f"--hostname={settings.name}@%h",
                f"--loglevel={settings.log_level}",
            ]
        )


def _leave_logging_alone(**_: Any) -> None:
    """Celery configures logging unless its signal for that has a listener."""


def _end_now(_number: int, _frame: FrameType | None) -> None:
    # Linux ends the child with this process.
    os._exit(1)
