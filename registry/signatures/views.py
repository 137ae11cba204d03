"""Signatures over manifests."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path

from registry.http.routes import Given, Reader, Writer, room
from sdk.schemas.artifacts import SignatureView, SignedManifest

router = room("/manifests", "signatures")

Digest = Annotated[str, Path(max_length=64)]


@router.post("/{digest}/signatures", status_code=201)
def sign_manifest(digest: Digest, body: SignedManifest, services: Given, who: Writer) -> SignatureView:
    """Add a signature to a manifest; a second one by the same key takes the place of the first."""
    return services.signatures.add(digest, signed=body, who=who)


@router.get("/{digest}/signatures")
def list_signatures(digest: Digest, services: Given, who: Reader) -> list[SignatureView]:
    """The signatures over a manifest, the first one first; whether they are genuine, only the signer's public key tells."""
    return services.signatures.list(digest, who=who)
