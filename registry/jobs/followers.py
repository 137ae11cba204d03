"""Who goes on when a job has ended: sweeps, whose next members wait for it. They are told after the commit, and whatever
goes wrong with them is not a fault of the job's. And who is asked when nobody has work.
"""

from __future__ import annotations

import logging
from typing import Protocol

from registry.errors import RegistryError
from registry.jobs.lifecycle import FINAL
from registry.jobs.models import Job

_log = logging.getLogger(__name__)


class Follower(Protocol):
    """Who goes on."""

    def ended(self, sweep: str) -> None:
        """Go on with a sweep, one of whose jobs has ended: no further than somebody can wait who handed it in."""

    def go_on(self) -> int:
        """Go on with every sweep, to its end; return how many steps were taken."""

    def is_left(self) -> bool:
        """Whether a sweep has something to do, and no job that would bring somebody to it."""


class Idler(Protocol):
    """Who has something to do when nobody has work, and is told of no job."""

    def go_on(self) -> int:
        """Do it; return how many steps were taken."""

    def is_left(self) -> bool:
        """Whether it has something to do, and no job that would bring somebody to it."""


class Followers:
    """Those who are told."""

    def __init__(self) -> None:
        self._follower: Follower | None = None
        self._idlers: list[Idler] = []

    def follow(self, follower: Follower) -> None:
        """Let somebody be told from now on; the room of sweeps is made after that of jobs."""
        self._follower = follower

    def ask_too(self, idler: Idler) -> None:
        """Let somebody be asked as well, when nobody has work."""
        self._idlers.append(idler)

    def tell(self, job: Job) -> None:
        """Say that a job may have ended; called after the commit. It raises nothing: the reconciler asks again."""
        if self._follower is None or job.sweep is None or job.state not in FINAL:
            return
        try:
            self._follower.ended(job.sweep)
        except Exception as error:  # noqa: BLE001 - the job has ended, whatever becomes of its sweep
            _warn(f"sweep {job.sweep}", error)

    def ask(self) -> bool:
        """Ask, when nobody has work, whether there is some now. It raises nothing."""
        # Each of them, even if one has found work.
        return sum(_goes_on(each) for each in self._asked()) > 0

    def wait(self) -> bool:
        """Say whether somebody has to be asked, since no job brings anybody."""
        return any(each.is_left() for each in self._asked())

    def _asked(self) -> list[Idler]:
        return [*([] if self._follower is None else [self._follower]), *self._idlers]


def _goes_on(asked: Idler) -> bool:
    try:
        return asked.go_on() > 0
    except Exception as error:  # noqa: BLE001 - a worker that asks for a job has done nothing wrong
        _warn("sweeps and policies", error)
        return False


def _warn(what: str, error: Exception) -> None:
    known = isinstance(error, RegistryError)
    said = error.message if isinstance(error, RegistryError) else type(error).__name__
    _log.warning("%s will go on later: %s", what, said, exc_info=None if known else error)
