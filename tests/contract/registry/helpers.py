"""What these tests share. Every registry keeps the one contract: in process over SQLite, over HTTP with SQLite, and
over PostgreSQL and S3.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import select
from support import calls
from support.adapters import SPEC, digest
from support.registries import World

from registry.catalog.models import Version
from sdk.client import Client
from sdk.schemas.artifacts import DatasetView
from sdk.schemas.catalog import Publication
from sdk.schemas.job_requests import BaseChoice, TrainingRequest
from sdk.schemas.jobs import JobSubmission, JobView

# What workers do, as they do it.


def submission(name: str, rows: DatasetView, *, base: str = "tiny", priority: int = 0, **spec: Any) -> JobSubmission:
    choice = BaseChoice(id=base, fingerprint=digest(f"{base}: base"))
    request = TrainingRequest.model_validate(
        {"adapter": name, "base": choice, "data": rows.digest, "spec": SPEC.model_dump() | spec}
    )
    return JobSubmission(request=request, priority=priority)


def submit(client: Client, body: JobSubmission, key: str | None = None) -> JobView:
    headers = {} if key is None else {"Idempotency-Key": key}
    return client.call("POST", "/jobs", JobView, body=body, headers=headers)


def publication(client: Client, folder: Path, name: str, **changed: Any) -> Publication:
    """Upload an adapter and say what a worker says of it."""
    return calls.publication(client, folder, name, **{"metrics": {"loss": 1.25}, **changed})


def states_of(world: World, name: str) -> list[tuple[str, int | None]]:
    """Every row of an adapter's versions, also those that nobody can see."""
    with world.services.db.read() as session:
        rows = session.scalars(select(Version).order_by(Version.pk)).all()
        return [(row.state, row.number) for row in rows if row.adapter.name == name]
