"""The Celery application of a worker: messages are hints, so nothing of their state is kept or trusted.

The main process talks to the broker and the pool process, one, works. What the main process learns by signals the pool
process learns through a file, see `workers.node.shutdown`.
"""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from celery import Celery, signals
from kombu import Exchange, Queue

from sdk.config import cache_path
from workers.child.privacy import keep_to_itself
from workers.entry import hints
from workers.node import logs
from workers.node.shutdown import Shutdown, pass_on, withdraw
from workers.settings import QUEUES as QUEUES
from workers.settings import WorkerSettings

#: Celery lets a task that is under way run so long after SIGQUIT; shorter than the grace of a pod.
_SOFT_SHUTDOWN_S = 20.0


def make_app() -> Celery:
    """Build the application from the environment."""
    settings = WorkerSettings.from_env()
    hints.install()
    app = Celery("adapterctl-worker", broker=settings.broker_url, include=["workers.entry.tasks"])
    app.conf.update(
        task_queues=[Queue(name, Exchange(name), routing_key=name) for name in QUEUES],
        task_default_queue=QUEUES[0],
        task_create_missing_queues=False,
        # The database's lease decides what is run; a message is done with as soon as it is read.
        task_acks_late=False,
        task_ignore_result=True,
        accept_content=["json"],
        task_serializer="json",
        worker_concurrency=1,
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        worker_pool_start_method="spawn",
        # A fresh interpreter takes longer to come up than a fork, and longer still beside a training.
        worker_proc_alive_timeout=60.0,
        worker_soft_shutdown_timeout=min(_SOFT_SHUTDOWN_S, settings.grace_s * 2 / 3),
        broker_connection_retry_on_startup=True,
        # A job under way needs no broker.
        broker_connection_max_retries=None,
        broker_transport_options={"health_check_interval": 25, "socket_keepalive": True},
        # Celery's own state events show a job's id and nothing of its content.
        worker_send_task_events=True,
    )
    return app


app = make_app()
#: What lasts as long as the main process.
_main = ExitStack()


@signals.setup_logging.connect  # type: ignore[untyped-decorator]
def _configure_logging(**_: Any) -> None:
    """Log as every worker does, in both processes; Celery configures nothing then."""
    logs.configure(WorkerSettings.from_env())


@signals.worker_init.connect  # type: ignore[untyped-decorator]
def _begin_main(**_: Any) -> None:
    """In the main process, before there is a pool: settle what the pool process reads from its environment."""
    settings = WorkerSettings.from_env()
    file = cache_path() / f"stop-{os.getpid()}"
    withdraw(file)
    _main.callback(withdraw, file)
    replace(settings, stop_file=file).hand_down()


@signals.worker_ready.connect  # type: ignore[untyped-decorator]
def _greet(**_: Any) -> None:
    from workers.entry.service import present

    settings = WorkerSettings.from_env()
    _main.enter_context(present(settings, Shutdown(grace_s=settings.grace_s, file=settings.stop_file)))
    # Celery's own handler would wait for its soft timeout before it says anything to anybody.
    signal.signal(signal.SIGINT, signal.getsignal(signal.SIGTERM))


@signals.worker_shutting_down.connect  # type: ignore[untyped-decorator]
def _pass_on(**_: Any) -> None:
    """In the main process's signal handler: once for each signal."""
    settings = WorkerSettings.from_env()
    if settings.stop_file is not None:
        pass_on(settings.stop_file)


@signals.worker_shutdown.connect  # type: ignore[untyped-decorator]
def _end_main(**_: Any) -> None:
    _main.close()


@signals.worker_process_init.connect  # type: ignore[untyped-decorator]
def _begin_pool_process(**_: Any) -> None:
    from workers.entry.tasks import begin

    # It is a program of its own, with the same environment.
    keep_to_itself()
    begin()
