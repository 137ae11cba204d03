"""Celery over Redis or Valkey, addressed by the task's name."""

from __future__ import annotations

import logging
from collections.abc import Sequence

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

    def remind(self, jobs: Sequence[tuple[str, str]]) -> int:
        """Send hints of a queue in which the broker has none: it may have lost them. Workers that are at work ask anyway."""
        try:
            with self._celery.connection_for_write() as connection:
                client = connection.default_channel.client
                empty = {queue for queue in {QUEUE_OF[kind] for _, kind in jobs} if client.llen(queue) == 0}
        except (KombuError, RedisError, OSError) as error:
            _log.warning("nothing was announced again, the broker is away: %s", type(error).__name__)
            return 0
        due = [(job_id, kind) for job_id, kind in jobs if QUEUE_OF[kind] in empty]
        for job_id, kind in due:
            self.announce(job_id, kind)
        return len(due)

    def revive(self) -> None:
        """Do nothing: workers of a server are kept alive by whoever runs them."""
