"""A thread that holds a job while its child works: renews the lease, sends what happened, hears of a cancel."""

from __future__ import annotations

import logging
import threading
import time

from sdk.client import Client
from sdk.errors import AdapterctlError, NotFound, StaleAttempt
from sdk.schemas.events import NewEvent, Progress
from sdk.schemas.jobs import Assignment, Heartbeat, HeartbeatReply

#: How often news is sent, in seconds; with none, a heartbeat goes out four times a lease.
_NEWS_EVERY_S = 0.5
_MAX_EVENTS = 500

_log = logging.getLogger(__name__)


class Holder:
    """Holds one assignment from `with` to its end."""

    def __init__(self, client: Client, assignment: Assignment) -> None:
        self._client = client
        self._assignment = assignment
        self._news: list[NewEvent] = []
        self._guard = threading.Lock()
        self._end = threading.Event()
        #: Set once the job is to be cancelled.
        self.cancelled = threading.Event()
        #: Set once another attempt holds the job, or the lease has run out unrenewed.
        self.lost = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"heartbeat-{assignment.job}", daemon=True)

    def __enter__(self) -> Holder:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    @property
    def must_stop(self) -> bool:
        """Whether the child is to be ended."""
        return self.cancelled.is_set() or self.lost.is_set()

    def report(self, progress: Progress) -> None:
        """Keep news for the next heartbeat; of counts within one phase only the newest, of training every step."""
        with self._guard:
            last = self._news[-1].progress if self._news else None
            if last is not None and last.phase == progress.phase and last.loss is None and progress.message is None:
                self._news.pop()
            self._news.append(NewEvent(kind="progress", progress=progress))
            del self._news[:-_MAX_EVENTS]

    def flush(self) -> None:
        """Send what is left, before the result is handed in."""
        self._send()

    def _beat(self) -> None:
        every_s = self._assignment.lease_s / 4
        renewed = sent = time.monotonic()
        while not self._end.wait(_NEWS_EVERY_S):
            now = time.monotonic()
            if not self._news and now - sent < every_s:
                continue
            sent = now
            if self._send():
                renewed = time.monotonic()
            elif time.monotonic() - renewed > self._assignment.lease_s:
                _log.error("job %s: the lease ran out while the registry was away", self._assignment.job)
                self.lost.set()
            if self.lost.is_set():
                return

    def _send(self) -> bool:
        """Send one heartbeat; return whether the lease was renewed."""
        with self._guard:
            news, self._news = self._news, []
        try:
            reply = self._client.call(
                "POST",
                f"/jobs/{self._assignment.job}/heartbeat",
                HeartbeatReply,
                body=Heartbeat(attempt=self._assignment.attempt, events=news),
                timeout_s=max(2.0, self._assignment.lease_s / 4),
            )
        except (StaleAttempt, NotFound):
            self.lost.set()
            return False
        except AdapterctlError as error:
            _log.warning("job %s: heartbeat failed: %s", self._assignment.job, error)
            with self._guard:
                self._news = [*news, *self._news][-_MAX_EVENTS:]
            return False
        if reply.cancel:
            self.cancelled.set()
        return True
