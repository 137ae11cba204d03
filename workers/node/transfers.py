"""Transfers while an attempt is prepared and handed in: reported as progress, and ended if the attempt must stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from sdk.pulling.transfer import OnBytes
from sdk.schemas.events import Progress

_TELL_EVERY_S = 0.5
_PHASES = {"fetching": "download", "hashing": "load"}


class Transfers:
    """The callback of a worker's client for each piece of bytes, from any of its threads."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._watch: tuple[Callable[[], None], Callable[[Progress], None]] | None = None
        self._doing = ""
        self._done_bytes = 0
        self._told_at = 0.0

    def watch(self, check: Callable[[], None], report: Callable[[Progress], None]) -> None:
        """From now on call `check`, which raises to end a transfer, and report progress."""
        self._watch, self._doing = (check, report), ""

    def ignore(self) -> None:
        """From now on let everything pass."""
        self._watch = None

    def on_bytes(self, doing: str, total_bytes: int) -> OnBytes:
        """Return the callback for a transfer that isn't made by the client."""
        return lambda count: self(doing, count, total_bytes)

    def __call__(self, doing: str, count: int, total_bytes: int) -> None:
        """Count transferred bytes. Raises whatever `check` raises."""
        if self._watch is None:
            return
        check, report = self._watch
        check()
        with self._guard:
            now = time.monotonic()
            if doing != self._doing:
                # Transfers that finish immediately report no progress.
                self._doing, self._done_bytes, self._told_at = doing, 0, now
            self._done_bytes += count
            if now - self._told_at < _TELL_EVERY_S:
                return
            self._told_at = now
            phase = _PHASES.get(doing.split(" ")[0], "upload")
            total = total_bytes if total_bytes >= self._done_bytes else None
            report(Progress(phase=phase, step=max(0, self._done_bytes), total=total, unit="bytes"))
