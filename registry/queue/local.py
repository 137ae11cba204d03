"""The local runner: one detached process a home, that drains the job table and exits."""

from __future__ import annotations

import fcntl
import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

#: The runner of a home holds this file's lock while it works.
LOCK_FILE = "runner.lock"

#: Addressed by name, so that the registry imports no worker.
RUNNER_MODULE = "workers.entry.local_runner"

#: What this process has started. A runner that is still at work is not reported as forgotten when its queue is, and is
#: waited for once it has ended.
_RUNNERS: list[subprocess.Popen[bytes]] = []

_log = logging.getLogger(__name__)


class LocalQueue:
    """Starts the runner of a home. One that finds another at work ends at once, so starting is always safe."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._started: list[subprocess.Popen[bytes]] = []

    def revive(self) -> None:
        """Start a runner unless one holds this home's lock: one that was killed loses nothing."""
        if not self._is_running():
            self.announce("", "")

    def _is_running(self) -> bool:
        path = self._home / LOCK_FILE
        if not path.exists():
            return False
        with path.open("rb") as file:
            try:
                # A runner that begins at this very moment tries again, so this look does not send it away.
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def announce(self, job_id: str, queue: str) -> None:
        """Start a runner in a session of its own, so that it outlives the terminal."""
        try:
            process = self._start()
        except OSError as error:
            # The job is in the table, and the next command in this home looks there again.
            _log.warning("no runner could be started (%s); job %s keeps waiting", error.strerror, job_id)
            return
        _RUNNERS[:] = [*(earlier for earlier in _RUNNERS if earlier.poll() is None), process]
        self._started = [*(earlier for earlier in self._started if earlier.poll() is None), process]

    def remind(self, jobs: Sequence[tuple[str, str]]) -> int:
        """Start a runner where jobs wait and none is at work."""
        if jobs:
            self.revive()
        return 0

    def _start(self) -> subprocess.Popen[bytes]:
        logs = self._home / "logs"
        logs.mkdir(parents=True, exist_ok=True, mode=0o700)
        environment = {key: value for key, value in os.environ.items() if key != "ADAPTERCTL_TOKEN"}
        environment["ADAPTERCTL_URL"] = f"local:{self._home}"
        # Whoever submits jobs here is whose folders and whose hub token it is.
        environment.setdefault("ADAPTER_WORKER_SHARED_PATHS", "/")
        environment.setdefault("ADAPTER_WORKER_HUB_REPOSITORIES", "*")
        with (logs / "runner.log").open("ab") as log:
            return subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [sys.executable, "-m", RUNNER_MODULE],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=environment,
                cwd=self._home,
            )
