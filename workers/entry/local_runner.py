"""The runner of an embedded registry: one per home, detached; drains the job table and exits.

Started by name as `python -m workers.entry.local_runner LOCK [PARENT]`, with the registry's URL in `ADAPTERCTL_URL`. LOCK is
the descriptor of the home's lock, already taken by the process that starts the runner; without it the runner takes the lock
itself. PARENT is that process, if it is only about to submit a job: the runner gets ready meanwhile.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sdk import config
from sdk.errors import AdapterctlError
from sdk.file_locks import locked_if_free
from sdk.imports import begin_program
from workers.child.privacy import keep_to_itself
from workers.child.process import Child
from workers.node.shutdown import Shutdown

if TYPE_CHECKING:
    from workers.entry.runner import Worker

#: The same files that `registry.queue.local` looks at.
LOCK_FILE = "runner.lock"
ASKED_FILE = "runner.asked"
#: How often in a row asking for work may fail, and the first pause after a failure in seconds.
_FAILURES = 5
_AGAIN_S = 0.25
#: How often a runner that is ready looks whether it was asked for.
_LOOK_S = 0.02

_log = logging.getLogger("workers.entry.local_runner")


@contextmanager
def _only_runner(home: Path, lock: int | None = None) -> Iterator[bool]:
    """Whether this process is the home's only runner, for the length of the block: always, if it was given the lock."""
    if lock is not None:
        with os.fdopen(lock, "ab"):
            yield True
        return
    with locked_if_free(home / LOCK_FILE) as free:
        yield free


def main() -> int:
    """Work until there is no work, or a signal ends this."""
    keep_to_itself()
    begin_program()
    lock = int(sys.argv[1]) if len(sys.argv) > 1 else None
    first_child = None if lock is None else _first_child(lock)

    # While this process imports the registry, its child imports the libraries.
    from workers.entry.runner import Worker
    from workers.node import logs
    from workers.settings import WorkerSettings

    # A home has one runner at a time, which ends before the next begins: a warm child would never get a job.
    settings = replace(WorkerSettings.from_env(), name="local", warm=False)
    logs.configure(settings)
    home = config.load().home
    if home is None:
        _log.error("the local runner works on a local: URL only; start adapter-worker for a server")
        return 2
    shutdown = Shutdown(grace_s=settings.grace_s)
    worker = Worker(settings, shutdown, first_child=first_child)
    with shutdown.on_signals(signal.SIGTERM, signal.SIGINT):
        try:
            if len(sys.argv) > 2:
                worker.get_ready()
                _wait_for_job(home, shutdown, parent=int(sys.argv[2]))
            return _work(home, worker, shutdown, lock=lock)
        finally:
            worker.end()


def _first_child(lock: int) -> Child | None:
    """Start the child of the job for which this runner was started; None if none can be started now."""
    # Processes that it starts don't inherit the lock.
    os.set_inheritable(lock, False)
    with suppress(OSError):
        return Child()
    return None


def _wait_for_job(home: Path, shutdown: Shutdown, *, parent: int) -> None:
    """Wait until somebody has asked for a runner, or until the process that started this one is gone."""
    while os.getppid() == parent and not (home / ASKED_FILE).exists():
        if shutdown.wait(_LOOK_S):
            return


def _work(home: Path, worker: Worker, shutdown: Shutdown, *, lock: int | None = None) -> int:
    """Work until there is no work.

    A command that finds the lock taken between the last check and its release doesn't start a runner: its request is
    noticed after the release, and the table is checked again.
    """
    while True:
        with _only_runner(home, lock) as alone:
            if not alone:
                return 0
            (home / ASKED_FILE).unlink(missing_ok=True)
            worker.sweep()
            _drain(worker, shutdown)
            if shutdown.asked:
                worker.leave()
                return 0
        lock = None
        if not (home / ASKED_FILE).exists():
            return 0


def _drain(worker: Worker, shutdown: Shutdown) -> None:
    """Do all available jobs. Raises an error that occurs `_FAILURES` times in a row; the next command starts another
    runner.
    """
    from workers.entry.service import drain, pause_s, tell

    failures = 0
    while True:
        try:
            drain(worker, shutdown)
        except Exception as error:
            failures += 1
            if failures >= _FAILURES:
                raise
            tell(error)
            if shutdown.wait(pause_s(_AGAIN_S, failures)):
                return
        else:
            return


if __name__ == "__main__":
    try:
        sys.exit(main())
    except AdapterctlError as error:
        _log.error("%s", error)
        sys.exit(error.exit_code)
