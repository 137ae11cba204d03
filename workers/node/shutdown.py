"""How a worker is asked to end: once, and it stops in order; twice, and it stops at once."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

LOOK_S = 0.2


class Shutdown:
    """Whether and how urgently this process should end. Read from any thread."""

    def __init__(self, *, grace_s: float) -> None:
        self.grace_s = grace_s
        self._times = 0
        self._since: float | None = None

    def ask(self) -> None:
        """Ask it to end; asked again, it ends at once.

        This only counts, and loops check the count: it is called by a signal handler, which must not take locks.
        """
        self._since = self._since or time.monotonic()
        self._times += 1

    @property
    def asked(self) -> bool:
        """Whether no more work should begin, and the job in progress should be given back within the grace period."""
        return self._times > 0

    @property
    def at_once(self) -> bool:
        """Whether even the grace period has been given up."""
        return self._times > 1

    @property
    def left_s(self) -> float:
        """The rest of the grace period in seconds; all of it until this process is asked to end."""
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
        before = {number: signal.signal(number, self._on_signal) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.ask()
