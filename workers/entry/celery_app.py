"""The Celery application of a worker: messages are hints, so nothing of their state is kept or trusted.

`celery --app workers.entry.celery_app inspect …` finds it here; `workers.entry.celery_worker` runs it.
"""

from __future__ import annotations

from celery import Celery
from kombu import Exchange, Queue

from workers.entry import hints
from workers.settings import QUEUES, WorkerSettings


def make_app() -> Celery:
    """Build the application from the environment."""
    hints.install()
    app = Celery("adapterctl-worker", broker=WorkerSettings.from_env().broker_url)
    app.conf.update(
        task_queues=[Queue(name, Exchange(name), routing_key=name) for name in QUEUES],
        task_default_queue=QUEUES[0],
        task_create_missing_queues=False,
        # The database's lease decides what runs; a message is finished as soon as it is read.
        task_acks_late=False,
        task_ignore_result=True,
        accept_content=["json"],
        task_serializer="json",
        # A job computes in a child process, so a thread is enough to watch it.
        worker_pool="threads",
        worker_concurrency=1,
        # While a job runs, its worker takes no hints, so that other workers can.
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        broker_connection_retry_on_startup=True,
        # A job in progress needs no broker.
        broker_connection_max_retries=None,
        broker_transport_options={"health_check_interval": 25, "socket_keepalive": True},
        # Celery's own state events show a job's id and nothing of its content.
        worker_send_task_events=True,
    )
    return app


app = make_app()
