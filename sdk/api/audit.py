"""The audit trail: who changed what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice

from sdk.api.pages import PAGE, pages
from sdk.api.transport import Transport
from sdk.schemas.people import AuditView


def latest(transport: Transport, *, limit: int, where: Mapping[str, str | None]) -> Iterator[AuditView]:
    """Yield the last `limit` changes that `where` is true of, the newest first. Raises NotAllowed, InvalidInput."""
    params = {**where, "limit": min(limit, PAGE)}
    return islice(pages(transport, "/audit", AuditView, params=params), max(0, limit))
