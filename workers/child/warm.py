"""The warm child: it has imported its libraries and waits for an order. It is used once."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from workers.child.process import PROGRAM, Child

_log = logging.getLogger(__name__)


class WarmChild:
    """Keeps at most one waiting child. Without `warm` there is none, and each order starts its own child."""

    def __init__(self, *, warm: bool, program: Sequence[str] = PROGRAM) -> None:
        self._warm = warm
        self._program = program
        self._child: Child | None = None

    def prepare(self) -> None:
        """Start the next one, but only while no job runs: it would take memory and time from the job."""
        if not self._warm or (self._child is not None and not self._child.has_ended):
            return
        self.end()
        try:
            self._child = Child(program=self._program)
        except OSError as error:
            _log.warning("no warm child could be started (%s); the next job starts cold", error.strerror)

    def take(self, folder: Path) -> Child:
        """Return a child at work on the order in `folder`: the warm one, or a new one if there is none."""
        child, self._child = self._child, None
        if child is not None:
            if child.give(folder):
                return child
            child.end()
            _log.warning("the warm child has ended; this job starts cold. Its last words:\n%s", child.last_words)
        return Child(folder, program=self._program)

    def end(self) -> None:
        """End the waiting child, if there is one."""
        child, self._child = self._child, None
        if child is not None:
            child.end()
