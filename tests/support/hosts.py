"""The process in which a pipeline runs, for a test that calls one itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sdk.schemas.events import Progress
    from sdk.schemas.series import PointChunk


def _unread(progress: Progress) -> None:
    """Nobody reads it."""


@dataclass
class InProcess:
    """A host that writes to `out`, and passes on what is reported."""

    out: Path
    report: Callable[[Progress], None] = _unread
    told_to_stop: bool = False

    def stop_in_order(self) -> None:
        """Nothing stops it."""

    def wrote_checkpoint(self, step: int, total: int, folder: Path) -> None:
        """Nobody sends it."""

    def measured(self, chunk: PointChunk) -> None:
        """Nobody sends it."""

    def reached_rung(self, number: int, step: int, loss: float) -> None:
        """Nobody asks."""

    def goes_on(self, number: int) -> bool | None:
        """Nobody answers."""
