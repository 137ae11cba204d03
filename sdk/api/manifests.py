"""The files of manifests."""

from __future__ import annotations

from sdk.api.transport import Transport
from sdk.names import segment
from sdk.schemas.artifacts import Transfer


def locate(transport: Transport, digest: str) -> list[Transfer]:
    """Return the locations of a manifest's files. Raises NotFound."""
    return transport.call("GET", f"/manifests/{segment(digest)}/files", list[Transfer])
