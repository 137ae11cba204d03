"""Places between workers and their registry where a test can stand: before a request passes, and after its answer is
there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from faults.plans import Fault, Head, Plan, Strike
from faults.proxy import FaultProxy


class Dropped(ConnectionError):  # noqa: N818 - it reads as what happened
    """Raised by who stands at a gate: this request shall not reach the registry."""


class Gates(Plan):
    """Who stands where, for all proxies at once. Keys are ends of paths, such as `/jobs/3f…/complete`."""

    def __init__(self) -> None:
        super().__init__("gates", most=0)
        self._guard = threading.Lock()
        self._before: dict[str, Callable[[Head], None]] = {}
        self._swallowed: set[str] = set()

    def stand_in(self, proxy: FaultProxy) -> None:
        """Have a proxy ask here."""
        proxy.before = self._pass
        proxy.plan = self

    @contextmanager
    def before(self, path: str, act: Callable[[Head], None]) -> Iterator[None]:
        """Call `act` with each such request before it passes, for the length of the block; Dropped keeps it from passing."""
        with self._guard:
            self._before[path] = act
        try:
            yield
        finally:
            with self._guard:
                del self._before[path]

    @contextmanager
    def swallowing(self, path: str) -> Iterator[None]:
        """Let the registry do what such requests ask for, and its answers get lost, for the length of the block."""
        with self._guard:
            self._swallowed.add(path)
        try:
            yield
        finally:
            with self._guard:
                self._swallowed.discard(path)

    def draw(self, request: Head) -> Strike | None:
        """Return what is to happen to an answer."""
        with self._guard:
            lost = any(request.path.endswith(path) for path in self._swallowed)
        return Strike(Fault.SWALLOWED) if request.method == "POST" and lost else None

    def _pass(self, request: Head) -> None:
        if request.method != "POST":
            return
        with self._guard:
            acts = [act for path, act in self._before.items() if request.path.endswith(path)]
        for act in acts:
            act(request)
