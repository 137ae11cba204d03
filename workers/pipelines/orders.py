"""A worker's order to a pipeline, and what carries it out. Nothing heavy is imported here, so that a worker can write one.

An order is a module `order` in the room of its pipeline. Next to it, a module `carry_out` says which order it takes
(`ORDER`) and executes it (`carry_out`), with the libraries that this needs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from sdk.schemas.events import Progress
from sdk.schemas.wire import Wire


class Order(Wire):
    """One run of a pipeline: local paths and a spec, nothing from the network."""

    #: The room below `workers.pipelines` that carries it out.
    pipeline: str


class Host(Protocol):
    """The process in which a pipeline runs."""

    @property
    def out(self) -> Path:
        """The folder for the result's files."""

    @property
    def told_to_stop(self) -> bool:
        """Whether the pipeline should save its progress and end."""

    def report(self, progress: Progress) -> None:
        """Report progress."""

    def stop_in_order(self) -> None:
        """From now on, a request to stop doesn't end the process: the pipeline checks `told_to_stop`."""

    def wrote_checkpoint(self, step: int, total: int, folder: Path) -> None:
        """Report that a checkpoint is complete and on the disk."""
