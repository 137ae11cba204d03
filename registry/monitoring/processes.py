"""What each server process is doing: written by each into one row every few seconds, so that whichever is asked tells of all."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import BaseModel, TypeAdapter
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from registry.db.database import Database
from registry.db.statements import upsert
from registry.db.types import db_epoch_s
from registry.monitoring.models import ServerProcess
from registry.observed import OBSERVED, ObservedCount, ObservedDuration
from registry.pools import Occupancy, occupancies

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from prometheus_client import Metric

#: How often a process reports, how long a report counts, and after how long its row is removed, in seconds.
REPORT_S = 10.0
_COUNTS_S, _FORGOTTEN_S = 60.0, 3600.0


class ProcessNumber(BaseModel):
    """One number about the process itself, as Prometheus' own clients name it."""

    name: str
    about: str
    is_total: bool
    value: float


class ProcessFigures(BaseModel):
    """What one process reports."""

    process: list[ProcessNumber]
    #: By pool.
    pools: dict[str, Occupancy]
    counts: list[ObservedCount]
    durations: list[ObservedDuration]


@dataclass(frozen=True)
class ReportedProcess:
    """A process and its last report."""

    name: str
    figures: ProcessFigures


_FIGURES = TypeAdapter(ProcessFigures)


class ServerProcesses:
    """Those of one registry."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def figures(self) -> ProcessFigures:
        """Return what this process is doing. To be called where its event loop runs, which changes some of it."""
        from prometheus_client import ProcessCollector

        return ProcessFigures(
            process=list(_numbers(ProcessCollector(registry=None).collect())),
            pools={**occupancies(), "connections to the database": self._db.occupancy},
            counts=OBSERVED.counts(),
            durations=OBSERVED.durations(),
        )

    def report(self, figures: ProcessFigures) -> None:
        """Write them into this process's row, and remove rows of processes that have long ended."""
        name = f"{socket.gethostname()}:{os.getpid()}"[:100]
        now = db_epoch_s()
        with self._db.write() as session:
            upsert(session, ServerProcess, {"name": name}, {"seen_at_s": now, "figures": figures.model_dump_json()})
            session.execute(delete(ServerProcess).where(ServerProcess.seen_at_s < now - _FORGOTTEN_S))


def reported(session: Session) -> Sequence[ReportedProcess]:
    """Return the processes that have reported within a minute, by name."""
    rows = session.execute(
        select(ServerProcess.name, ServerProcess.figures)
        .where(ServerProcess.seen_at_s > db_epoch_s() - _COUNTS_S)
        .order_by(ServerProcess.name)
    )
    return [ReportedProcess(name, _FIGURES.validate_json(figures)) for name, figures in rows]


def _numbers(families: Iterable[Metric]) -> Iterator[ProcessNumber]:
    for family in families:
        for sample in family.samples:
            yield ProcessNumber(
                name=family.name, about=family.documentation, is_total=family.type == "counter", value=sample.value
            )
