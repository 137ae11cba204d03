"""Celery over Redis or Valkey, addressed by the task's name."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from celery import Celery
from kombu.exceptions import KombuError
from redis.exceptions import RedisError

from registry.deadlines import CircuitBreaker, NoAnswer, Places
from registry.errors import Unavailable
from registry.pools import Pool

#: The one task that workers know.
TASK = "adapterctl.work"

#: How many threads of this process may wait for the broker at a time.
_AT_ONCE = 4
_POOL = Pool(
    "calls to the broker",
    waits="threads of views that have submitted a job; 0.5 s, then the reconciler does it",
    at_once=str(_AT_ONCE),
    item="one message; `REGISTRY_BROKER_TIMEOUT_S` for each answer",
    share="none is needed: who calls has had its turn, and nobody waits longer than 0.5 s",
)

_log = logging.getLogger(__name__)


class CeleryQueue:
    """Sends job ids as hints. A hint that can't be sent soon is left to the reconciler, which reminds the queue of
    waiting jobs.
    """

    def __init__(self, broker_url: str, *, timeout_s: float = 1.0) -> None:
        self._breaker = CircuitBreaker("the broker", Unavailable)
        self._places = Places(_POOL, _AT_ONCE, "the broker", Unavailable)
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
            task_publish_retry_policy={"max_retries": 1, "interval_start": 0.1},
        )

    def announce(self, job_id: str, queue: str) -> None:
        """Send the hint; if the broker is away, that only costs time, because workers also find the job by asking."""
        try:
            with self._asking():
                self._celery.send_task(TASK, args=[job_id], queue=queue, ignore_result=True)
        except Unavailable as error:
            _log.warning("job %s was not announced: %s", job_id, error.message)

    def remind(self, jobs: Sequence[tuple[str, str]]) -> int:
        """Send hints for a queue in which the broker has none, because it may have lost them. Workers that are at work
        ask anyway.
        """
        try:
            with self._asking(), self._celery.connection_for_write() as connection:
                client = connection.default_channel.client
                empty = {queue for queue in {queue for _, queue in jobs} if client.llen(queue) == 0}
        except Unavailable as error:
            _log.warning("nothing could be announced again: %s", error.message)
            return 0
        due = [(job_id, queue) for job_id, queue in jobs if queue in empty]
        for job_id, queue in due:
            self.announce(job_id, queue)
        return len(due)

    def revive(self) -> None:
        """Do nothing: workers of a server are kept alive by whoever runs them."""

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Ask the broker in the block. Raises Unavailable if it does not answer, without the broker's own message."""
        with self._breaker.asking(), self._places.taken():
            try:
                yield
            except (KombuError, RedisError, OSError) as error:
                # Its messages may contain the URL, and so the password.
                raise NoAnswer(type(error).__name__) from None
