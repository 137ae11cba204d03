"""What each version, base and dataset was made from."""

from __future__ import annotations

from sdk.api.transport import Transport
from sdk.schemas.lineage import Direction, Lineage


def trace(transport: Transport, of: str, *, direction: Direction, depth: int) -> Lineage:
    """Return what `of` (a ref, `base:NAME` or `data:NAME`) was made from, and what was made from it. Raises NotFound."""
    return transport.call("GET", "/lineage", Lineage, params={"of": of, "direction": direction, "depth": depth})
