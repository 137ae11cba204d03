"""Signatures over manifests."""

from __future__ import annotations

from sdk.api.transport import Transport
from sdk.names import segment
from sdk.schemas.artifacts import SignatureView, SignedManifest


def submit(transport: Transport, digest: str, signed: SignedManifest) -> SignatureView:
    """Add a signature; a second one by the same key replaces the first. Raises NotFound, NotAllowed, InvalidInput."""
    return transport.call("POST", f"/manifests/{segment(digest)}/signatures", SignatureView, body=signed)


def of_manifest(transport: Transport, digest: str) -> list[SignatureView]:
    """Return the signatures over the manifest with this digest, oldest first. Raises NotFound."""
    return transport.call("GET", f"/manifests/{segment(digest)}/signatures", list[SignatureView])
