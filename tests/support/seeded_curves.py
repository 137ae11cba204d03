"""Trainings with curves, as a page shows them: real points, sent by a worker, and copies of them for many."""

from __future__ import annotations

import math
import random
import secrets
from collections.abc import Sequence
from typing import cast

from sqlalchemy import Table, insert, select

from registry.catalog.versions.finding import space_of
from registry.jobs.models import Job
from registry.series.models import JobSeries, SeriesBlock
from sdk.schemas.job_requests import BaseChoice, TrainingRequest
from sdk.schemas.jobs import JobSubmission
from sdk.schemas.series import Point
from support import calls
from support.adapters import SPEC, digest
from support.people import submit
from support.points import Sender
from support.registries import World


def measured(steps: int, *, seed: int = 1, looks: int = 6) -> list[Point]:
    """What a training measures that goes well, with one spike."""
    noise, points = random.Random(seed), []
    for step in range(1, steps + 1):
        loss = 1.2 + 2.5 * math.exp(-6 * step / steps) + noise.gauss(0, 0.12) + 0.1 * (seed % 7)
        values = {
            "loss": max(0.05, loss) if step != steps // 3 else 6.5,
            "lr": 1e-4 * (1 + math.cos(math.pi * step / steps)),
            "grad_norm": math.exp(noise.gauss(0, 0.3)),
            "seconds": 0.8 + 0.4 * noise.random(),
            "tokens": 4096.0,
        }
        if step % max(1, steps // looks) == 0:
            values["eval_loss"] = 1.4 + 2.3 * math.exp(-5 * step / steps) + 0.25 * max(0.0, step / steps - 0.7)
        points.append(Point(step=step, values=values))
    return points


def sent(world: World, data: str, name: str, points: Sequence[Point], *, base: str = "tiny") -> str:
    """Submit a training, and send its points as its worker; return its id."""
    request = TrainingRequest(
        adapter=name, base=BaseChoice(id=base, fingerprint=digest(f"{base}: base")), data=data, spec=SPEC
    )
    job = submit(world.writer, JobSubmission(request=request))
    held = calls.hold(world.worker)
    assert held.job == job.id
    Sender(world.worker, held).send_all(points)
    return job.id


def copied(world: World, name: str, of: str, count: int) -> list[str]:
    """Make so many trainings that have measured what another one has."""
    ids = [secrets.token_hex(6) for _ in range(count)]
    own = {"subject": name, "namespace": space_of(name), "idempotency_key": None, "submit_key": None}
    with world.services.db.write() as session:
        for kind, key in ((Job, "id"), (JobSeries, "job_id"), (SeriesBlock, "job_id")):
            table = cast("Table", kind.__table__)
            rows = [dict(row) for row in session.execute(select(table).where(table.c[key] == of)).mappings()]
            more = own if kind is Job else {}
            session.execute(insert(table), [{**row, **more, key: job} for job in ids for row in rows])
    return ids
