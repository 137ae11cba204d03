"""A thread that holds a job while its child works: it renews the lease, sends events, and learns of a cancellation.

It has its own connection and does nothing else, so neither a training nor a long upload can delay it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sdk.api import work
from sdk.client import Client
from sdk.errors import InvalidInput, NotFound, StaleAttempt
from sdk.pulling.filling import OnTransfer
from sdk.schemas.advice import Advice
from sdk.schemas.events import NewEvent, Progress
from sdk.schemas.trackers import Runs, TrackedRun, TrackerName
from sdk.schemas.work import Assignment, Heartbeat, HeartbeatReply

#: News is sent at once, but at least this many seconds after the previous news; without news, a heartbeat is sent four
#: times per lease.
_NEWS_EVERY_S = 0.5
_TRY_AGAIN_S = 1.0
#: The longest timeout of one heartbeat, in seconds.
_TIMEOUT_S = 10.0
_MAX_EVENTS = 500
#: An attempt is given up this share of a lease before its end, at most this many seconds: killing takes a moment.
_MARGIN = 0.2
_MARGIN_S = 5.0

_log = logging.getLogger(__name__)


class Lease:
    """The lease of one job: held by heartbeats from `with` to its end, which carry what happened."""

    def __init__(self, client: Client, assignment: Assignment, *, claimed_at: float) -> None:
        self._client = client
        self._assignment = assignment
        #: When the claim was sent, by the monotonic clock.
        self.claimed_at = claimed_at
        self._lease_s = assignment.lease_s
        self._held_until = self._until(claimed_at)
        self._news: list[NewEvent] = []
        self._runs: Runs = {}
        #: What the registry has not been told yet of all that the training is advised.
        self._advice: list[Advice] = []
        self._guard = threading.Lock()
        self._sending = threading.Lock()
        #: Set when there is news, and at the end.
        self._wake = threading.Event()
        self._end = threading.Event()
        self._cancelled = threading.Event()
        self._lost = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> Lease:
        if time.monotonic() - self.claimed_at > self._lease_s / 4:
            # The answer took long. The registry counts from when it gave the job, and can tell whether the lease still holds.
            self._send(within_s=self._lease_s / 4)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        self._thread.join(_TIMEOUT_S)

    def end(self) -> None:
        """Send no more heartbeats: the job is over."""
        self._end.set()
        self._wake.set()

    @property
    def cancelled(self) -> bool:
        """Whether the job is to be cancelled."""
        return self._cancelled.is_set()

    @property
    def lost(self) -> bool:
        """Whether another attempt holds the job, or may soon: the lease wasn't renewed in time.

        The registry counts a lease from when it got a heartbeat, which is after it was sent, so this ends earlier.
        """
        return self._lost.is_set() or time.monotonic() >= self._held_until

    def lose(self) -> None:
        """Give up the job: the registry said that this attempt no longer holds it."""
        self._lost.set()

    def report(self, progress: Progress) -> None:
        """Keep events for the next heartbeat: only the newest of counts within one phase, but every training step and
        every message.
        """
        with self._guard:
            last = self._news[-1].progress if self._news else None
            if last is not None and last.phase == progress.phase and _only_counts(last) and progress.message is None:
                self._news.pop()
            self._keep(NewEvent(kind="progress", progress=progress))

    def log(self, message: str) -> None:
        """Keep a line for the job's log."""
        with self._guard:
            self._keep(NewEvent(kind="log", message=message[:4000]))

    def note_run(self, tracker: TrackerName, run: TrackedRun) -> None:
        """Keep what is new about the run of a tracker for the next heartbeat."""
        with self._guard:
            self._runs[tracker] = run
            self._wake.set()

    def note_advice(self, advice: Sequence[Advice]) -> None:
        """Keep all that the training is advised so far for the next heartbeat."""
        with self._guard:
            self._advice = list(advice)
            self._wake.set()

    def flush(self) -> None:
        """Send what is left, before the result is handed in."""
        self._send()

    @property
    def _has_news(self) -> bool:
        return bool(self._news or self._runs or self._advice)

    def _keep(self, event: NewEvent) -> None:
        self._news.append(event)
        del self._news[:-_MAX_EVENTS]
        self._wake.set()

    def _until(self, sent_at: float) -> float:
        return sent_at + self._lease_s - min(_MARGIN_S, self._lease_s * _MARGIN)

    def _beat(self) -> None:
        due = self.claimed_at + self._lease_s / 4
        while not self._end.is_set() and not self.lost:
            self._wake.wait(_NEWS_EVERY_S)
            self._wake.clear()
            now = time.monotonic()
            if not self._end.is_set() and (self._has_news or now >= due):
                due = now + (self._lease_s / 4 if self._send() else _TRY_AGAIN_S)
                self._end.wait(_NEWS_EVERY_S)
        if self.lost and not self._end.is_set():
            _log.warning("this attempt no longer holds the job and is dropped")

    def _send(self, *, within_s: float | None = None) -> bool:
        """Send one heartbeat and wait `within_s` for its answer, or while the job is held; return whether it was renewed."""
        with self._sending:
            with self._guard:
                news, self._news = self._news, []
                runs, self._runs = self._runs, {}
                advice, self._advice = self._advice, []
            sent_at = time.monotonic()
            try:
                beat = Heartbeat(attempt=self._assignment.attempt, events=news, runs=runs, advice=advice)
                reply = self._post(beat, within_s)
            except (StaleAttempt, NotFound):
                self.lose()
                return False
            except InvalidInput as error:
                # Better to lose a line than the job.
                _log.warning("the registry refused these events; skipping them: %s", error)
                return False
            except Exception as error:  # noqa: BLE001 - this thread is all that holds the job
                _log.warning("heartbeat failed: %s: %s", type(error).__name__, error)
                with self._guard:
                    self._news = [*news, *self._news][-_MAX_EVENTS:]
                    self._runs = {**runs, **self._runs}
                    self._advice = self._advice or advice
                return False
        self._lease_s = reply.lease_s
        self._held_until = self._until(sent_at)
        if reply.cancel:
            self._cancelled.set()
        return True

    def _post(self, beat: Heartbeat, within_s: float | None) -> HeartbeatReply:
        left_s = self._held_until - time.monotonic() if within_s is None else within_s
        timeout_s = max(0.5, min(_TIMEOUT_S, self._lease_s / 4, left_s))
        try:
            return work.heartbeat(self._client.transport, self._assignment.job, beat, timeout_s=timeout_s)
        except InvalidInput:
            if not beat.advice:
                raise
        # An older registry knows no advice, and has to get the rest.
        return self._post(beat.model_copy(update={"advice": []}), within_s)


def _only_counts(progress: Progress) -> bool:
    return progress.loss is None and progress.message is None


@contextmanager
def apart(client: Client, on_transfer: OnTransfer | None = None) -> Iterator[Client]:
    """A client of the same registry with its own connections. With an in-process registry there are no connections to share."""
    if client.config.home is not None:
        yield client
        return
    config = client.config
    own = Client(config.url, config.token, cache=client.cache.root, on_transfer=on_transfer, insecure=config.insecure)
    try:
        yield own
    finally:
        own.close()
