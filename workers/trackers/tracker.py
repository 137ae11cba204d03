"""What is known of a training to a tracker, and what every tracker can do."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from sdk.schemas.job_requests import SweepPlace
from sdk.schemas.series import Point

#: How a run ends.
RunEnd = Literal["finished", "failed", "killed"]

#: The longest value of a parameter, in characters: older servers of MLflow take no longer ones.
_LONGEST = 500
_UNFIT = re.compile(r"[^A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Training:
    """The training whose points are forwarded."""

    job: str
    #: The adapter's whole name.
    adapter: str
    #: Spec, base, adapter and job, by name.
    params: Mapping[str, str | int | float | bool]
    #: The sweep that it is a member of.
    sweep: SweepPlace | None = None

    @property
    def title(self) -> str:
        """A name for people, which may be that of a folder.

        >>> Training("3f1c", "team/../reviews", {}).title
        'team-reviews-3f1c'
        >>> Training("3f1c", "reviews", {}, SweepPlace(sweep="9b", number=2)).title
        'reviews-sweep-9b-2-3f1c'
        """
        member = "" if self.sweep is None else f"-{self.group}-{self.sweep.number}"
        return f"{_UNFIT.sub('-', self.adapter).strip('-')[:100]}{member}-{self.job}"

    @property
    def group(self) -> str | None:
        """A name for the runs of its sweep."""
        return None if self.sweep is None else f"sweep-{self.sweep.sweep}"


@dataclass(frozen=True)
class BegunRun:
    """A run of a tracker, and whether points may have been forwarded to it before."""

    id: str
    continues: bool


class Tracker(Protocol):
    """A tracker with one training. Its methods are called from one thread; they may raise anything, and take any time."""

    def begin(self, training: Training, run: str | None) -> BegunRun:
        """Begin a run, or go on with the one with an id, if it is still there."""

    def log(self, points: Sequence[Point], at_s: float) -> None:
        """Forward points, which follow those before or replace them: it returns when they are handed over.

        `at_s` is when this was tried first, in seconds since 1970. It is the same if the points are forwarded again
        because it is unknown whether they arrived.
        """

    def end(self, end: RunEnd | None) -> None:
        """Hand over whatever is left, and end the run; None: another attempt will go on with it."""


def shown(value: str | int | float | bool) -> str:
    """Return a parameter as a text of bounded length."""
    text = str(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
