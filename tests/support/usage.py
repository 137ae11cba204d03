"""Upload sessions that are begun and abandoned, and what is counted for them and everything else that namespaces
have.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy import select, update

from registry.artifacts.models import Upload
from registry.db.clock import utc_now
from registry.quotas.recount import count_anew
from registry.usage.charging import BYTES, COUNTED
from registry.usage.models import Usage
from sdk.client import Client
from sdk.schemas.access import QuotaView
from sdk.schemas.artifacts import BlobSpec, UploadRequest, UploadView
from support.adapters import digest
from support.people import SEEDS
from support.registries import World


def begin(client: Client, namespace: str | None, *blobs: BlobSpec) -> UploadView:
    """Open an upload session, and send nothing."""
    body = UploadRequest(blobs=list(blobs))
    return client.call("POST", "/uploads", UploadView, body=body, params={"namespace": namespace})


def blob(size_bytes: int) -> BlobSpec:
    """Bytes that nobody else has."""
    return BlobSpec(sha256=digest(f"bytes {next(SEEDS)}"), size_bytes=size_bytes)


def end_time_of(world: World, *uploads: str) -> None:
    """Let upload sessions expire."""
    with world.services.db.write() as session:
        over = utc_now() - timedelta(seconds=1)
        session.execute(update(Upload).where(Upload.id.in_(uploads)).values(expires_at=over))


def by_kind(quota: QuotaView) -> dict[str, int]:
    """The kinds whose count is not 0."""
    return {name: size for name in BYTES if (size := getattr(quota, name))}


def differing(world: World) -> dict[str, Any]:
    """Where sums and tables differ, by namespace: the running sum, and what is there."""
    with world.services.db.read() as session:
        counted = count_anew(session)
        rows = {row.namespace: {name: getattr(row, name) for name in COUNTED} for row in session.scalars(select(Usage))}
    nothing = dict.fromkeys(COUNTED, 0)
    pairs = {name: (rows.get(name, nothing), counted.get(name, nothing)) for name in {*rows, *counted}}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
