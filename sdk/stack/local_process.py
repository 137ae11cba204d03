"""A process that belongs to one folder: it is started detached, can be adopted later, and is ended for certain.

A subclass says how the process is prepared, launched and asked for its health. All else is the same for all of them:
the log, the pid file, and the escalation from a polite signal to SIGKILL.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from sdk.stack.errors import ServerError
from sdk.stack.identity import MARK_VARIABLE, Identity, new_mark
from sdk.whole_files import write_whole


def new_secret() -> str:
    """Return a password of 192 random bits that needs no quoting in URLs, configuration files or shells."""
    return secrets.token_hex(24)


def write_private(path: Path, text: str, *, durable: bool = True) -> None:
    """Write a file that only its owner can read, whole or not at all. Raises OSError."""
    write_whole(path, text, durable=durable, mode=0o600)


_LOG_TAIL_LINES = 30
#: A log that is longer than this at a start is put aside as `NAME.log.1`, in place of the one before.
_LONGEST_LOG_BYTES = 32 * 1024 * 1024


class LocalProcess(ABC):
    """One process over one folder. `start` returns once it is healthy; `stop` returns once it is gone.

    The folder outlives the process, and a second object over it finds the process that the first one started. An object
    may be used by one thread at a time.
    """

    #: What the process is called in messages and in the names of its files.
    name: str
    #: Signals in the order in which they are tried, each with the seconds it is given. SIGKILL follows them all.
    stop_signals: ClassVar[Sequence[tuple[signal.Signals, float]]] = ((signal.SIGTERM, 10.0),)

    def __init__(self, directory: Path) -> None:
        self.directory = directory.absolute()
        self._process: subprocess.Popen[bytes] | None = None
        self._started: Identity | None = None
        #: How the last process that this object started ended, in words; None if that is not known.
        self.last_end: str | None = None

    # What a subclass provides.

    def _prepare(self) -> None:  # noqa: B027 - most have nothing to prepare
        """Write configuration and make the data folder; called before every launch, so it must be repeatable."""

    @abstractmethod
    def _command(self) -> list[str]:
        """Return the command line. Secrets do not belong on it, because every user can read it."""

    @abstractmethod
    def _healthy(self) -> bool:
        """Say whether the process does its work now. May raise OSError for "no"."""

    @property
    def ports(self) -> list[int]:
        """Every port on which the process listens for clients."""
        return []

    @property
    def main_port(self) -> int | None:
        """The port that clients know, or None."""
        return self.ports[0] if self.ports else None

    def _environment(self) -> dict[str, str]:
        """Return the environment, without the caller's own variables.

        SeaweedFS, for one, would take AWS_ACCESS_KEY_ID for an administrator's.
        """
        return bare_environment(self.directory)

    def _privileges(self) -> dict[str, Any]:
        """Return the Popen arguments that change the user, or nothing."""
        return {}

    # What every process shares.

    @property
    def log_path(self) -> Path:
        """Where the output goes; appended to, never truncated."""
        return self.directory / f"{self.name}.log"

    @property
    def identity(self) -> Identity | None:
        """The process that was started last, alive or not, even if another program started it."""
        if self._started is not None and self._started.is_alive:
            return self._started
        return Identity.read(self._pid_path) or self._started

    @property
    def pid(self) -> int | None:
        """The process id while it runs, or None."""
        if self._process is not None:
            # A child that has ended is reaped, or it would stay as a zombie.
            self._process.poll()
        identity = self.identity
        return identity.pid if identity is not None and identity.is_alive else None

    @property
    def running_since(self) -> float | None:
        """When the running process was started, in seconds since 1970, or None."""
        try:
            return None if self.pid is None else self._pid_path.stat().st_mtime
        except FileNotFoundError:
            return None

    def start(self, timeout_s: float = 60.0, *, wanted: Callable[[], bool] = lambda: True) -> None:
        """Start the process, or adopt the one that already runs over this folder, and wait until it is healthy.

        Returns early once it is no longer `wanted`. Raises ServerError, with the tail of the log, if the process that
        it launches ends, or does not answer within `timeout_s`.
        """
        launched = False
        deadline_s = time.monotonic() + timeout_s
        while wanted():
            if self.pid is None:
                self._reap()
                if launched:
                    raise self._error(f"{self.name} {self.last_end or 'ended'} while starting")
                self._kill_rest()
                self._make_directory()
                self._prepare()
                self._launch()
                launched = True
                deadline_s = time.monotonic() + timeout_s
            if self.answers():
                return
            if time.monotonic() > deadline_s:
                self.stop()
                if launched:
                    raise self._error(f"{self.name} did not answer within {timeout_s:.0f} s and was ended")
                # A process from an earlier run no longer answered, and was ended; a new one gets the whole time again.
            time.sleep(0.05)

    def stop(self) -> None:
        """End the process, gently first and then by SIGKILL. Harmless if none is running."""
        for number, grace_s in self.stop_signals:
            if not self._signal(number) or self._gone_within(grace_s):
                break
        else:
            self._signal(signal.SIGKILL)
            if not self._gone_within(10.0):
                raise ServerError(
                    f"{self.name} (pid {self.pid}) is still there after SIGKILL; look at it with: ps -p {self.pid}"
                )
        self._reap()
        self._kill_rest()
        self._pid_path.unlink(missing_ok=True)

    def answers(self) -> bool:
        """Say whether it is healthy now."""
        try:
            return self._healthy()
        except OSError:
            return False

    def log_tail(self) -> str:
        """Return the last lines of the log."""
        try:
            with self.log_path.open("rb") as log:
                log.seek(0, os.SEEK_END)
                log.seek(max(0, log.tell() - 64 * 1024))
                text = log.read().decode("utf-8", "replace")
        except FileNotFoundError:
            return "(no log)"
        return "\n".join(text.splitlines()[-_LOG_TAIL_LINES:])

    def _error(self, what: str) -> ServerError:
        return ServerError(f"{what}\nRead {self.log_path}; it ends:\n{self.log_tail()}")

    @property
    def _pid_path(self) -> Path:
        return self.directory / f"{self.name}.pid"

    def _make_directory(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)

    def _launch(self) -> None:
        mark = new_mark()
        with self._open_log() as log:
            # A new session keeps the terminal's Ctrl-C away.
            self._process = subprocess.Popen(  # noqa: S603 - a program of an installed wheel
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
                env={**self._environment(), MARK_VARIABLE: mark},
                start_new_session=True,
                **self._privileges(),
            )
        self._started = Identity.of(self._process.pid, mark)
        write_private(self._pid_path, self._started.text, durable=False)

    def _open_log(self) -> Any:
        if self.log_path.exists() and self.log_path.stat().st_size > _LONGEST_LOG_BYTES:
            self.log_path.replace(self.log_path.with_name(f"{self.log_path.name}.1"))
        return os.fdopen(os.open(self.log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab")

    def _reap(self) -> None:
        """Collect the exit status of a child that has ended, or it would stay as a zombie."""
        self.last_end = None
        if self._process is not None:
            status = self._process.wait()
            self.last_end = f"ended with status {status}" if status >= 0 else f"was killed by {_name_of(-status)}"
            self._process = None

    def _kill_rest(self) -> None:
        """Kill what a process that has ended left behind: its children may still hold its port, or a GPU."""
        identity = self.identity
        if identity is not None:
            identity.kill_rest()

    def _signal(self, number: signal.Signals) -> bool:
        """Send a signal to the running process; False if none is running."""
        identity = self.identity
        return identity is not None and identity.send(number)

    def _gone_within(self, seconds: float) -> bool:
        deadline_s = time.monotonic() + seconds
        while self.pid is not None:
            if time.monotonic() > deadline_s:
                return False
            time.sleep(0.02)
        return True


def bare_environment(home: Path) -> dict[str, str]:
    """Return the few variables that a server needs, without the caller's."""
    return {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(home), "LC_ALL": "C", "TZ": "UTC"}


def _name_of(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
