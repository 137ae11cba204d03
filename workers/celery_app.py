"""The Celery application of a worker: messages are hints, so nothing of their state is kept or trusted."""

from __future__ import annotations

from typing import Any

from celery import Celery
from celery.signals import worker_process_init
from kombu import Queue

from workers import logs
from workers.settings import WorkerSettings

QUEUES = ("gpu", "cpu")


def make_app() -> Celery:
    """Build the application from the environment."""
    settings = WorkerSettings.from_env()
    app = Celery("adapterctl-worker", broker=settings.broker_url, include=["workers.tasks"])
    app.conf.update(
        task_queues=[Queue(name) for name in QUEUES],
        task_default_queue=QUEUES[0],
        task_create_missing_queues=False,
        # The database's lease decides what is run; a message is done with as soon as it is read.
        task_acks_late=False,
        task_ignore_result=True,
        accept_content=["json"],
        task_serializer="json",
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        worker_pool_start_method="spawn",
        worker_hijack_root_logger=False,
        worker_soft_shutdown_timeout=20.0,
        broker_connection_retry_on_startup=True,
        broker_transport_options={"health_check_interval": 25, "socket_keepalive": True},
        # Celery's own state events show a job's id and nothing of its content.
        worker_send_task_events=True,
    )
    return app


app = make_app()


@worker_process_init.connect  # type: ignore[untyped-decorator]
def _configure_pool_process(**_: Any) -> None:
    """A spawned process begins without the parent's logging."""
    logs.quieten()
