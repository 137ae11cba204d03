"""Fixtures of these tests. The life of a job on both databases: retries by reason, release, routing, checkpoints, the
reconciler.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from contract.jobs.helpers import Crew
from sqlalchemy import update
from support.registries import World

from registry.db.types import utc_now
from registry.jobs.models import Job, Worker
from registry.principal import Role
from sdk.client import Client


@pytest.fixture
def crew(people: World, acting: Callable[..., Client], space: str, rows: Path, tmp_path: Path) -> Iterator[Crew]:
    writer = acting(**{space: Role.WRITER})
    data = writer.datasets.add(rows, namespace=space).digest
    found = Crew(people, space, writer, acting(**{space: Role.WORKER}), data, tmp_path)
    yield found
    for services in found.others:
        services.db.close()
    with people.services.db.write() as session:
        # No later test of this module finds this one's workers or jobs.
        session.execute(update(Worker).values(seen_at=utc_now() - timedelta(days=30)))
        unfinished = (Job.namespace == space, Job.state.in_(["queued", "running"]))
        session.execute(update(Job).where(*unfinished).values(state="failed", lease_until_s=None))
