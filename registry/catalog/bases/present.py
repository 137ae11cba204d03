"""Bases as they are sent over the API."""

from __future__ import annotations

from registry.catalog.models import NamedBase
from registry.db.stored_json import table
from sdk.schemas.catalog import BaseView


def present(row: NamedBase, *, whole: bool = False, replaces: str | None = None) -> BaseView:
    """Return a base as sent over the API; with its config if `whole`."""
    return BaseView(
        id=row.id,
        namespace=row.namespace,
        revision=row.revision,
        fingerprint=row.base.fingerprint,
        weights_digest=row.weights_digest,
        architecture=row.architecture,
        location=row.location,
        uploaded=row.manifest_digest is not None,
        facts=row.facts,
        size_bytes=row.size_bytes,
        created_at=row.created_at,
        config=table(row.config) if whole else None,
        replaces=replaces,
    )
