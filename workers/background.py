"""A thread that works beside a training while others wait for nothing but its end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Background:
    """Such a thread, from `start` to `end`, and the guard of what it shares with others.

    >>> done = []
    >>> background = Background(lambda: done.append("work"), name="example")
    >>> background.start()
    >>> background.end(within_s=5.0)
    >>> done, background.over
    (['work'], True)
    """

    def __init__(self, work: Callable[[], None], *, name: str) -> None:
        #: Guards what is shared; who waits on it is woken up by each change.
        self.changed = threading.Condition()
        #: Whether the thread is to end.
        self.over = False
        self._thread = threading.Thread(target=work, name=name, daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Hold the guard for the length of the block, and wake up whoever waits for a change once it is released."""
        with self.changed:
            self.changed.notify_all()
            yield

    def stop(self) -> None:
        """Have it end."""
        with self.changing():
            self.over = True

    def end(self, within_s: float) -> None:
        """Have it end, and wait for that, but no longer than `within_s`: what it calls may hang."""
        self.stop()
        self._thread.join(within_s)
