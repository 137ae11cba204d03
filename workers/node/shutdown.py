"""How a worker is asked to end: once, and it stops in order; twice, and it stops at once.

A signal only raises a count, which loops look at: whatever takes a lock may not be done in a handler. The pool process
of Celery is also told through a file, since signals go to the main process: that one makes it, the pool process looks.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

LOOK_S = 0.2


class Shutdown:
    """Whether and how urgently this process is to end."""

    def __init__(self, *, grace_s: float, file: Path | None = None) -> None:
        self.grace_s = grace_s
        self._file = file
        self._signals = 0
        self._since: float | None = None

    @property
    def asked(self) -> bool:
        """Whether no more work is to be begun, and what there is to be given back within the grace."""
        if self._since is None and (self._signals or self._said(1)):
            self._since = time.monotonic()
        return self._since is not None

    @property
    def at_once(self) -> bool:
        """Whether even the grace is given up."""
        return self._signals > 1 or self._said(2)

    @property
    def by_signal_alone(self) -> bool:
        """Whether only this process was told, and not the one above it."""
        return self._signals > 0 and not self._said(1)

    @property
    def left_s(self) -> float:
        """What is left of the grace, in seconds; all of it as long as nobody asked."""
        if self.at_once:
            return 0.0
        return self.grace_s if self._since is None else max(0.0, self._since + self.grace_s - time.monotonic())

    def wait(self, seconds: float) -> bool:
        """Sleep, but no longer than until this is asked; return whether it is."""
        until = time.monotonic() + seconds
        while not self.asked and (left := until - time.monotonic()) > 0:
            time.sleep(min(LOOK_S, left))
        return self.asked

    @contextmanager
    def on_signals(self, *numbers: signal.Signals) -> Iterator[None]:
        """Count these signals for the length of the block; called in the main thread."""
        before = {number: signal.signal(number, self._count) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _count(self, _number: int, _frame: FrameType | None) -> None:
        self._signals += 1

    def _said(self, level: int) -> bool:
        return self._file is not None and _mark(self._file, level).exists()


def _mark(file: Path, level: int) -> Path:
    # Two empty files need no room on a disk that is full.
    return file.with_name(f"{file.name}-{level}")


def pass_on(file: Path) -> None:
    """Say through the file that the process below shall end; said again, that it shall at once."""
    file.parent.mkdir(parents=True, exist_ok=True)
    _mark(file, 2 if _mark(file, 1).exists() else 1).touch()


def withdraw(file: Path) -> None:
    """Take what was said through the file away."""
    for level in (1, 2):
        with suppress(OSError):
            _mark(file, level).unlink(missing_ok=True)
