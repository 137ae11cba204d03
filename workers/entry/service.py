"""A worker for a server: it works when the broker announces a job, or asks for work itself, and reports when it is
available and when it leaves.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sdk.api import work
from sdk.client import Client
from sdk.errors import AdapterctlError
from sdk.schemas.work import Farewell
from workers.entry.runner import Worker
from workers.node import machine
from workers.node.shutdown import LOOK_S, Shutdown
from workers.settings import WorkerSettings

#: A registry considers a worker silent after three times as long.
_HELLO_EVERY_S = 30.0
_TIMEOUT_S = 10.0
#: How long the end of the process waits for the farewell.
_LEAVE_S = 5.0
#: The longest pause after failures in a row, in seconds.
_LONGEST_PAUSE_S = 60.0

_log = logging.getLogger(__name__)


def drain(worker: Worker, shutdown: Shutdown, hint: str | None = None) -> int:
    """Work until the registry has nothing for this worker, or until it should end; return the number of jobs."""
    done = 0
    while not shutdown.asked and worker.work_once(hint):
        done += 1
        hint = None
    return done


def ask_forever(settings: WorkerSettings) -> None:
    """Ask for work at intervals until a signal ends this, for a registry without a broker."""
    shutdown = Shutdown(grace_s=settings.grace_s)
    worker = Worker(settings, shutdown)
    with shutdown.on_signals(signal.SIGTERM, signal.SIGINT):
        worker.sweep()
        with present(settings, shutdown):
            worker.warm_child.prepare()
            try:
                ask(worker, shutdown, every_s=settings.ask_every_s)
            finally:
                worker.end()


def ask(worker: Worker, shutdown: Shutdown, *, every_s: float) -> None:
    """Ask for work at intervals until this should end. No answer of the registry ends it."""
    failures = 0
    while not shutdown.asked:
        try:
            worked, failures = worker.work_once(), 0
        except Exception as error:  # noqa: BLE001 - a fleet does not end because a registry answers oddly
            worked, failures = False, failures + 1
            tell(error)
        if not worked:
            shutdown.wait(pause_s(every_s, failures))


def pause_s(every_s: float, failures: int) -> float:
    """How long a worker waits before it asks again, in seconds: twice as long after each failure in a row.

    >>> [pause_s(2.0, failures) for failures in (0, 1, 2, 9)]
    [2.0, 4.0, 8.0, 60.0]
    """
    return max(every_s, min(every_s * 2.0 ** min(failures, 16), _LONGEST_PAUSE_S))


def tell(error: Exception) -> None:
    """Log an error outside any job."""
    if isinstance(error, AdapterctlError):
        _log.warning("%s", error)
    else:
        _log.error("unexpected error", exc_info=error)


@contextmanager
def present(settings: WorkerSettings, shutdown: Shutdown) -> Iterator[None]:
    """Run a thread that reports regularly that this worker is available and, once it should stop, that it takes no more
    jobs.
    """
    over = threading.Event()
    thread = threading.Thread(target=_speak, args=(settings, shutdown, over), name="presence", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(_LEAVE_S)


def _speak(settings: WorkerSettings, shutdown: Shutdown, over: threading.Event) -> None:
    client = Client()
    due = time.monotonic()
    while not shutdown.asked and not over.wait(LOOK_S):
        if time.monotonic() >= due:
            due = time.monotonic() + _HELLO_EVERY_S
            _say(
                "hello",
                lambda: work.hello(client.transport, machine.worker_info(settings, client.cache), timeout_s=_TIMEOUT_S),
            )
    _say("leave", lambda: work.leave(client.transport, Farewell(worker=settings.name), timeout_s=_TIMEOUT_S))
    client.close()


def _say(word: str, say: Callable[[], None]) -> None:
    try:
        say()
    except Exception as error:  # noqa: BLE001 - it is said again, and this thread is all that says it
        _log.warning("could not report to the registry (%s): %s", word, error)
