"""The audit trail: who changed what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime

from sdk.api.pages import pages
from sdk.api.transport import Transport
from sdk.schemas.access import AuditView


def latest(transport: Transport, *, limit: int, where: Mapping[str, str | datetime | None]) -> Iterator[AuditView]:
    """Yield the last `limit` changes that match `where`, newest first. Raises NotAllowed, InvalidInput."""
    texts = {name: value.isoformat() if isinstance(value, datetime) else value for name, value in where.items()}
    return pages(transport, "/audit", AuditView, params={**texts}, limit=limit)
