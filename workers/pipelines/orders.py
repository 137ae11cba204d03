"""What a worker orders of a pipeline, and who carries it out. Nothing heavy is imported here, so that a worker can write one.

An order is a module `order` in the room of its pipeline. Beside it, a module `carry_out` says which order it takes (`ORDER`)
and does it (`carry_out`), with the libraries that this needs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from sdk.schemas.events import Progress
from sdk.schemas.wire import Wire


class Order(Wire):
    """One run of a pipeline: local paths and a spec, nothing of the network."""

    #: The room below `workers.pipelines` that carries it out.
    pipeline: str


class Host(Protocol):
    """The process that a pipeline runs in."""

    @property
    def out(self) -> Path:
        """The folder for the files that are made."""

    @property
    def told_to_stop(self) -> bool:
        """Whether the pipeline is to write down how far it is, and end."""

    def report(self, progress: Progress) -> None:
        """Say how far it is."""

    def stop_in_order(self) -> None:
        """From now on, being told to stop ends nothing by itself: the pipeline looks at `told_to_stop`."""

    def wrote_checkpoint(self, step: int, total: int, folder: Path) -> None:
        """Say that a checkpoint is whole and on the disk."""
