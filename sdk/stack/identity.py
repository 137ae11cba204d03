"""Which process is meant: its number, the time of its start, and a mark that it hands on to its children.

The kernel reuses process ids. The time of the start tells our process from another one that got its number later. The
mark, an environment variable with a random value, finds the processes that a killed process has left behind.
"""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sdk.process_starts import process_started_at

if TYPE_CHECKING:
    import psutil

#: The environment variable that holds the mark.
MARK_VARIABLE = "ADAPTERCTL_STACK_MARK"


@dataclass(frozen=True)
class Identity:
    """One process, for good: no other process has the same identity, on this boot of the machine or a later one."""

    pid: int
    started_at: str
    #: Empty if none was set.
    mark: str = ""

    @classmethod
    def of(cls, pid: int, mark: str = "") -> Identity:
        """Return the identity of a process that was just started."""
        return cls(pid, process_started_at(pid) or "", mark)

    @classmethod
    def read(cls, path: Path) -> Identity | None:
        """Read what `text` gave; None if there is no file, or it holds something else."""
        try:
            pid, started_at, mark = [*path.read_text(encoding="utf-8").splitlines(), "", "", ""][:3]
            return cls(int(pid), started_at, mark)
        except (FileNotFoundError, ValueError):
            return None

    @property
    def text(self) -> str:
        """Three lines for a pid file."""
        return f"{self.pid}\n{self.started_at}\n{self.mark}\n"

    @property
    def is_alive(self) -> bool:
        """Whether this process is running, rather than only waiting to be reaped."""
        return bool(self.started_at) and process_started_at(self.pid) == self.started_at

    def send(self, number: signal.Signals) -> bool:
        """Send a signal; False if the process is gone."""
        return _send(self.pid, number, lambda: self.is_alive)

    def kill_rest(self) -> int:
        """Kill every process that carries the mark, and return how many there were."""
        if not self.mark:
            return 0
        import psutil

        return sum(_send(pid, signal.SIGKILL, functools.partial(self._left, pid)) for pid in psutil.pids())

    def _left(self, pid: int) -> bool:
        """Whether a process was left behind by this one."""
        import psutil

        try:
            process = psutil.Process(pid)
            try:
                return bool(process.environ().get(MARK_VARIABLE) == self.mark)
            except psutil.AccessDenied:
                # The environment is that of another user's process, or of a worker, which hides it. A worker is known
                # by its session.
                return self._is_in_session(process)
        except (psutil.Error, OSError, ValueError):
            return False

    def _is_in_session(self, process: psutil.Process) -> bool:
        """Whether a process is of this user, is in the session that this one began, and did not begin before it."""
        boot, _, began_at = (process_started_at(process.pid) or "").rpartition("/")
        own_boot, _, own_began_at = self.started_at.rpartition("/")
        return (
            boot == own_boot
            and float(began_at) >= float(own_began_at)
            and os.getsid(process.pid) == self.pid
            and bool(process.uids().real == os.getuid())
        )


def new_mark() -> str:
    """Return a mark that no other process has."""
    return secrets.token_hex(8)


def _send(pid: int, number: signal.Signals, is_meant: Callable[[], bool]) -> bool:
    """Send a signal if `is_meant` is true of the process that has the number now; say whether it was sent."""
    with contextlib.suppress(ProcessLookupError):
        if not hasattr(os, "pidfd_open"):
            if is_meant():
                os.kill(pid, number)
                return True
            return False
        # The descriptor always stands for one process, even if another one gets the number between look and signal.
        descriptor = os.pidfd_open(pid)
        try:
            if is_meant():
                signal.pidfd_send_signal(descriptor, number)
                return True
        finally:
            os.close(descriptor)
    return False
