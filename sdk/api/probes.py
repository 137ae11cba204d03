"""Replays of versions' probes, as the registry keeps them."""

from __future__ import annotations

from collections.abc import Iterator

from sdk.api.transport import Transport, pages
from sdk.schemas.probe_records import ProbeRecord, ProbeRecordView


def record(transport: Transport, replay: ProbeRecord) -> ProbeRecordView:
    """Record what a replay found, in the place of what the same token has recorded before.

    Raises NotFound, NotAllowed, InvalidInput, Conflict if the version's record has no probe.
    """
    return transport.call("POST", "/probes", ProbeRecordView, body=replay)


def listed(transport: Transport, adapter: str, number: int | None = None) -> Iterator[ProbeRecordView]:
    """Yield the replays of an adapter's versions, or of one's, newest first. Raises InvalidName, NotFound."""
    return pages(transport, "/probes", ProbeRecordView, params={"adapter": adapter, "number": number})
