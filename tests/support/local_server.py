"""A server process that belongs to one folder: started detached, adopted again, and ended for certain.

A subclass says how the server is prepared, launched and asked for its health. Everything else is the same for all:
the log, the pid file, the secrets and ports that are chosen once and kept, and the escalation from a polite signal
to SIGKILL.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

#: Ports are taken below Linux's ephemeral range (32768 and up), so that no outgoing connection can sit on a kept one.
_LOWEST_PORT, _HIGHEST_PORT = 10_240, 32_767
_LOG_TAIL_LINES = 30


class ServerError(RuntimeError):
    """A server did not start, did not answer or did not end; the message holds the tail of its log."""


class LocalServer(ABC):
    """One server process over one folder. `start` returns once it answers; `stop` returns once it is gone.

    The folder outlives the process: ports, password and data are found again by a second object over it.
    """

    #: What the server is called in messages and in the names of its files.
    name: ClassVar[str]
    #: Signals in the order in which they are tried, each with the seconds it is given. SIGKILL follows them all.
    stop_signals: ClassVar[Sequence[tuple[signal.Signals, float]]] = ((signal.SIGTERM, 10.0),)

    def __init__(self, directory: Path) -> None:
        self.directory = directory.absolute()
        self._process: subprocess.Popen[bytes] | None = None
        self._kept: dict[str, Any] | None = None

    # What a subclass provides.

    @property
    @abstractmethod
    def url(self) -> str:
        """Where clients find the server, password included."""

    @property
    @abstractmethod
    def ports(self) -> list[int]:
        """Every port on which the server listens for clients."""

    @abstractmethod
    def _choose(self) -> dict[str, Any]:
        """Return the ports and secrets of a new folder, as JSON values; they are kept for its life."""

    @abstractmethod
    def _prepare(self) -> None:
        """Write configuration and make the data folder; called before every launch, so it must be repeatable."""

    @abstractmethod
    def _command(self) -> list[str]:
        """Return the command line. Secrets do not belong on it, because every user can read it."""

    @abstractmethod
    def _healthy(self) -> bool:
        """Say whether the server answers requests now. May raise OSError for "no"."""

    def _privileges(self) -> dict[str, Any]:
        """Return the Popen arguments that change the user, or nothing."""
        return {}

    # What every server shares.

    @property
    def log_path(self) -> Path:
        """Where the server's output goes; appended to, never truncated."""
        return self.directory / f"{self.name}.log"

    @property
    def kept(self) -> dict[str, Any]:
        """The ports and secrets of this folder, chosen at the first start."""
        if self._kept is None:
            path = self.directory / f"{self.name}.json"
            try:
                self._kept = dict(json.loads(path.read_text(encoding="utf-8")))
            except FileNotFoundError:
                self._make_directory()
                self._kept = self._choose()
                write_private(path, json.dumps(self._kept, indent=2) + "\n")
        return self._kept

    @property
    def pid(self) -> int | None:
        """The process id of the running server, or None. Also finds a server that another process started."""
        try:
            pid_text, started_at = self._pid_path.read_text(encoding="utf-8").split("\n")[:2]
        except (FileNotFoundError, ValueError):
            return None
        if self._process is not None:
            self._process.poll()
        # The kernel reuses pids. The time of its start tells our server from a stranger that was given the number.
        return int(pid_text) if started_at and process_started_at(int(pid_text)) == started_at else None

    def start(self, timeout_s: float = 60.0) -> None:
        """Start the server, or adopt the one that already runs over this folder, and wait until it answers.

        Raises ServerError, with the tail of the log, where it ends early or stays silent for `timeout_s`.
        """
        launched = False
        deadline_s = time.monotonic() + timeout_s
        while True:
            if self.pid is None:
                if launched:
                    raise ServerError(
                        f"{self.name} ended while starting. Read {self.log_path}; it ends:\n{self.log_tail()}"
                    )
                self._reap()
                self._make_directory()
                self._prepare()
                self._launch()
                launched = True
            if self._answers():
                return
            if time.monotonic() > deadline_s:
                self.stop()
                if launched:
                    raise ServerError(
                        f"{self.name} did not answer within {timeout_s:.0f} s and was ended. "
                        f"Read {self.log_path}; it ends:\n{self.log_tail()}"
                    )
                # What an earlier run left does not answer any more: it has been ended, and a new one gets its own time.
                deadline_s = time.monotonic() + timeout_s
            time.sleep(0.05)

    def stop(self) -> None:
        """End the server, gently first and then by SIGKILL. Harmless where none runs."""
        for number, patience_s in self.stop_signals:
            if not self._signal(number) or self._gone_within(patience_s):
                break
        else:
            self._signal(signal.SIGKILL)
            if not self._gone_within(10.0):
                raise ServerError(f"{self.name} (pid {self.pid}) survives SIGKILL. Look at it with `ps`.")
        self._reap()
        self._pid_path.unlink(missing_ok=True)

    def log_tail(self, lines: int = _LOG_TAIL_LINES) -> str:
        """Return the last lines of the log."""
        try:
            with self.log_path.open("rb") as log:
                log.seek(0, os.SEEK_END)
                log.seek(max(0, log.tell() - 64 * 1024))
                text = log.read().decode("utf-8", "replace")
        except FileNotFoundError:
            return "(no log)"
        return "\n".join(text.splitlines()[-lines:])

    @property
    def _pid_path(self) -> Path:
        return self.directory / f"{self.name}.pid"

    def _make_directory(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)

    def _launch(self) -> None:
        self._require_ports()
        descriptor = os.open(self.log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "ab") as log:
            # A new session keeps the terminal's Ctrl-C away, and the bare environment keeps the caller's credentials
            # away: SeaweedFS, for one, would take AWS_ACCESS_KEY_ID for an administrator's.
            self._process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
                env=bare_environment(self.directory),
                start_new_session=True,
                **self._privileges(),
            )
        pid = self._process.pid
        write_private(self._pid_path, f"{pid}\n{process_started_at(pid) or ''}\n")

    def _require_ports(self) -> None:
        """Raise ServerError where another program listens on a kept port: its answers would pass for ours."""
        deadline_s = time.monotonic() + 2.0
        for port in self.ports:
            while is_taken(port):
                # The last connections of a server that was killed may take a moment to go.
                if time.monotonic() > deadline_s:
                    raise ServerError(
                        f"Another program listens on port {port} of 127.0.0.1, which {self.name} uses. "
                        f"End it, or remove {self.directory / f'{self.name}.json'} to have new ports chosen."
                    )
                time.sleep(0.05)

    def _reap(self) -> None:
        """Collect the exit status of a child that is gone, or it would stay as a zombie."""
        if self._process is not None:
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        try:
            return self._healthy()
        except OSError:
            return False

    def _signal(self, number: signal.Signals) -> bool:
        """Send a signal to the running server; False where none runs."""
        pid = self.pid
        if pid is None:
            return False
        with contextlib.suppress(ProcessLookupError):
            if number == signal.SIGKILL:
                os.killpg(pid, number)
            else:
                os.kill(pid, number)
        return True

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


def new_secret() -> str:
    """Return a password of 192 random bits that needs no quoting in URLs, configuration files or shells."""
    return secrets.token_hex(24)


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, whole or not at all."""
    partial = path.with_name(f"{path.name}.partial-{secrets.token_hex(4)}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    partial.replace(path)


def free_ports(count: int, *, twin_offset: int = 0) -> list[int]:
    """Return `count` different ports of 127.0.0.1 on which nothing listens, each with its twin at `twin_offset`."""
    ports: list[int] = []
    with contextlib.ExitStack() as held:
        for port in _candidates(_HIGHEST_PORT - twin_offset):
            with contextlib.ExitStack() as attempt:
                try:
                    for number in {port, port + twin_offset}:
                        listener = attempt.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
                        listener.bind(("127.0.0.1", number))
                except OSError:
                    continue
                # Holding the sockets until all are found keeps one port from being the twin of another.
                held.push(attempt.pop_all())
            ports.append(port)
            if len(ports) == count:
                return ports
    raise ServerError(f"No {count} free ports on 127.0.0.1 below {_HIGHEST_PORT}. End what listens there.")


def is_taken(port: int) -> bool:
    """Say whether a program listens on a port of 127.0.0.1."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # Without this, connections that ended within the last minute would count as well.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def _candidates(highest: int) -> Iterator[int]:
    ports = range(_LOWEST_PORT, highest + 1)
    # Ports are not secrets: any spread will do that makes two runs on one machine unlikely to meet.
    yield from random.Random(secrets.randbits(64)).sample(ports, k=min(len(ports), 2_000))


def process_started_at(pid: int) -> str | None:
    """Return when a process started, as an opaque text, or None where it is gone or only waits to be reaped."""
    if sys.platform != "linux":
        found = subprocess.run(
            ["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
        )
        state, _, started_at = found.stdout.strip().partition(" ")
        return started_at.strip() if state and not state.startswith("Z") else None
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field is the command in brackets and may hold spaces; what follows the last bracket is fixed.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in {"Z", "X"} else fields[19]
