"""Celery over Redis or Valkey, addressed by the task's name."""

from __future__ import annotations

import logging

from celery import Celery
from kombu.exceptions import KombuError
from redis.exceptions import RedisError

#: The one task that workers know, and the queue of each kind of job.
TASK = "adapterctl.work"
QUEUE_OF = {"training": "gpu", "evaluation": "gpu", "merge": "cpu"}

_log = logging.getLogger(__name__)


class CeleryQueue:
    """Sends job ids as hints."""

    def __init__(self, broker_url: str, *, timeout_s: float = 5.0) -> None:
        self._celery = Celery("adapterctl-registry", broker=broker_url, set_as_current=False)
        self._celery.conf.update(
            task_ignore_result=True,
            task_serializer="json",
            broker_transport_options={
                "socket_timeout": timeout_s,
                "socket_connect_timeout": timeout_s,
                "health_check_interval": 25,
            },
            broker_connection_retry_on_startup=True,
            task_publish_retry_policy={"max_retries": 2, "interval_start": 0.1, "interval_step": 0.2},
        )

    def announce(self, job_id: str, kind: str) -> None:
        """Send the hint; a broker that is away costs only time, since workers also find the job by asking."""
        try:
            self._celery.send_task(TASK, args=[job_id], queue=QUEUE_OF[kind], ignore_result=True)
        except (KombuError, RedisError, OSError) as error:
            _log.warning("job %s was not announced, the broker is away: %s", job_id, type(error).__name__)

    def revive(self) -> None:
        """Do nothing: workers of a server are kept alive by whoever runs them."""
