"""What each version, base and dataset was made from."""

from __future__ import annotations

from sdk.api.bases import whose
from sdk.api.transport import Transport
from sdk.schemas.lineage import Direction, Lineage


def trace(
    transport: Transport,
    of: str,
    *,
    direction: Direction,
    depth: int,
    base_namespace: str | None = None,
    published: bool = False,
) -> Lineage:
    """Return what `of` (a ref, `base:NAME` or `data:NAME`) was made from, and what was made from it.

    `base_namespace` and `published` say whose base is meant. Raises NotFound, InvalidInput for a name that means several.
    """
    params = {"of": of, "direction": direction, "depth": depth, **whose(base_namespace, published)}
    return transport.call("GET", "/lineage", Lineage, params=params)
