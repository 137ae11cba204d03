"""The local runner: one detached process per home, which works off the job table and exits."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from registry.pools import Pool
from sdk.file_locks import locked

#: The runner of a home holds this file's lock from before its process exists until it has looked for jobs for the last
#: time.
LOCK_FILE = "runner.lock"
#: Exists while somebody has asked for a runner and none has looked for jobs since.
ASKED_FILE = "runner.asked"

#: Addressed by name, so that the registry imports no worker.
RUNNER_MODULE = "workers.entry.local_runner"

#: The runner's first child imports only this module of a pipeline.
_READY_VARIABLE = "ADAPTER_WORKER_CHILD_READY"
#: Says whether the helper of the home is asked (`sdk.config.wants_helper`).
_HELPER_VARIABLE = "ADAPTERCTL_HELPER"

#: The processes that this one has started. So a runner that is still at work is not reported as forgotten when its
#: queue is deleted, and is waited for once it has ended.
_RUNNERS: list[subprocess.Popen[bytes]] = []

_log = logging.getLogger(__name__)

_POOL = Pool(
    "runner of an embedded registry",
    waits="jobs of the one who uses it; a server has none",
    at_once="1 for a home",
    item="a job",
    share="all of it",
)


class LocalQueue:
    """Starts the runner of a home, unless one is at work or being started: that one notices that it was asked again."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._started: list[subprocess.Popen[bytes]] = []

    def revive(self) -> None:
        """Start a runner unless there is one, so that nothing is lost if one was killed."""
        self.announce("", "")

    def announce(self, job_id: str, queue: str) -> None:
        """Ask for a runner, in a session of its own, so that it outlives the terminal."""
        try:
            process = self._ask()
        except OSError as error:
            # The job is in the table, and the next command in this home looks there.
            _log.warning("no runner could be started (%s); job %s keeps waiting", error.strerror, job_id)
            return
        if process is not None:
            self._hold(process)

    @contextmanager
    def expecting(self, module: str | None = None, *, helped: bool = False) -> Iterator[None]:
        """Start a runner, unless there is one, for a job that the block submits: both get ready at the same time.

        `module` is the pipeline's module whose libraries are enough for the job; None: all are imported. `helped`: the
        home has a helper, or one is being started, which the runner asks instead of opening the home itself. The runner
        ends if the block, or this process, ends without a job.
        """
        variables = {} if module is None else {_READY_VARIABLE: module}
        if helped:
            variables[_HELPER_VARIABLE] = "1"
        process: subprocess.Popen[bytes] | None = None
        # Without it the job itself starts one.
        with suppress(OSError), locked(self._home / LOCK_FILE, timeout_s=0) as lock:
            process = self._start(lock, str(os.getpid()), **variables)
            self._hold(process)
        try:
            yield
        finally:
            if process is not None and process.poll() is None:
                # It looks for jobs, and ends if there is none.
                with suppress(OSError):
                    (self._home / ASKED_FILE).touch()

    def _hold(self, process: subprocess.Popen[bytes]) -> None:
        _RUNNERS[:] = [*(earlier for earlier in _RUNNERS if earlier.poll() is None), process]
        self._started = [*(earlier for earlier in self._started if earlier.poll() is None), process]

    def remind(self, jobs: Sequence[tuple[str, str]]) -> int:
        """Start a runner if jobs wait and none is at work."""
        if jobs:
            self.revive()
        return 0

    def _ask(self) -> subprocess.Popen[bytes] | None:
        """Start a runner with the lock, which it holds from now on; None if another one has it.

        The file is written before the lock is tried: the holder of the lock looks for the file after giving the lock
        up.
        """
        self._home.mkdir(parents=True, exist_ok=True)
        (self._home / ASKED_FILE).touch()
        try:
            with locked(self._home / LOCK_FILE, timeout_s=0) as lock:
                return self._start(lock)
        except BlockingIOError:
            return None

    def _start(self, lock: int, *words: str, **variables: str) -> subprocess.Popen[bytes]:
        environment = {key: value for key, value in os.environ.items() if key != "ADAPTERCTL_TOKEN"}
        environment |= variables
        environment["ADAPTERCTL_URL"] = f"local:{self._home}"
        # The folders and the hub token are those of the user who submits jobs here.
        environment.setdefault("ADAPTER_WORKER_SHARED_PATHS", "/")
        environment.setdefault("ADAPTER_WORKER_HUB_REPOSITORIES", "*")
        (self._home / "logs").mkdir(exist_ok=True, mode=0o700)
        with (self._home / "logs" / "runner.log").open("ab") as log:
            return _POOL.process(
                [sys.executable, "-m", RUNNER_MODULE, str(lock), *words],
                pass_fds=(lock,),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=environment,
                cwd=self._home,
            )
