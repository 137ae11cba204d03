"""What these tests share. What becomes of versions and bytes that nobody wants any more: over SQLite and a folder, and
PostgreSQL and S3.
"""

from __future__ import annotations

import hashlib
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import update
from support import calls
from support.registries import World
from support.stored import names_of

from registry.db.types import Model, utc_now
from sdk.client import Client
from sdk.objects import Version
from sdk.schemas.catalog import Publication, Published
from sdk.schemas.removal import GcReport, GcRequest

WITHOUT_GRACE = GcRequest(dry_run=False, grace_hours=0)


CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def age(world: World, model: type[Model], hours: float, *conditions: Any, column: str = "created_at") -> None:
    """Let rows look so many hours older."""
    with world.services.db.write() as session:
        session.execute(update(model).where(*conditions).values({column: utc_now() - timedelta(hours=hours)}))


def is_stored(world: World, sha256: str) -> bool:
    return bool(names_of(world.services.artifacts.storage, sha256))


def file_of(version: Version, path: str = WEIGHTS) -> str:
    return next(file.sha256 for file in version.info.files if file.path == path)


def publication(client: Client, folder: Path, name: str) -> Publication:
    """Upload an adapter, and say what is to be published of it."""
    return calls.publication(client, folder, name)


def publish(client: Client, body: Publication) -> Published:
    return client.call("POST", "/versions", Published, body=body)


def put_stray(world: World, content: bytes) -> str:
    """Store bytes that no row names."""
    sha256 = hashlib.sha256(content).hexdigest()
    world.services.artifacts.storage.put(sha256, len(content), iter([content]))
    return sha256


def same(planned: GcReport, done: GcReport) -> None:
    """A dry run and the real one that follows say the same."""
    assert (planned.dry_run, done.dry_run) == (True, False)
    assert planned.model_dump(exclude={"dry_run"}) == done.model_dump(exclude={"dry_run"})


def nothing(report: GcReport) -> bool:
    """Whether a run found nothing to remove."""
    counts = report.model_dump(exclude={"dry_run", "blobs_without_row", "rows_without_blob"})
    return not any(counts.values()) and not report.blobs_without_row.count
