"""The queue says "there is work", and nothing more: the database knows which. A lost message loses no job.

The two implementations import no worker: the broker's message and the local process are addressed by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from registry.errors import Invalid


class Queue(Protocol):
    """Tells workers that there is work."""

    def announce(self, job_id: str, queue: str) -> None:
        """Say that the job `job_id` waits in a queue. Called after its row is committed; never raises if the broker is
        away.
        """

    def remind(self, jobs: Sequence[tuple[str, str]]) -> int:
        """Say again that these jobs, (id, queue), wait, unless the queue knows; return how many were announced."""

    def revive(self) -> None:
        """Ensure that somebody works. Called while jobs could be claimed but nothing happens."""


class NoQueue:
    """Nobody is told: workers that ask by themselves find the job."""

    def announce(self, job_id: str, queue: str) -> None:
        """Do nothing."""

    def remind(self, jobs: Sequence[tuple[str, str]]) -> int:
        """Do nothing."""
        return 0

    def revive(self) -> None:
        """Do nothing."""


def open_queue(broker_url: str | None, timeout_s: float = 1.0) -> Queue:
    """Return the queue for a server: Celery over Redis or Valkey, or none. Raises Invalid for another scheme.

    The broker may take `timeout_s` to connect, and for each answer.
    """
    if broker_url is None:
        return NoQueue()
    if not broker_url.startswith(("redis://", "rediss://")):
        raise Invalid(
            "REGISTRY_BROKER_URL is not a redis:// or rediss:// URL; set it to one", param="REGISTRY_BROKER_URL"
        )
    from registry.queue.broker import CeleryQueue

    return CeleryQueue(broker_url, timeout_s=timeout_s)
