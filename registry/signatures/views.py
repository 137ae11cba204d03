"""Signatures over manifests."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path

from registry.http.routes import Reader, Writer, room, service
from registry.signatures.service import Signatures
from sdk.schemas.artifacts import SignatureView, SignedManifest

router = room("/manifests", "signatures")

SignaturesDep = Annotated[Signatures, service(Signatures)]

Digest = Annotated[str, Path(max_length=64)]


@router.post("/{digest}/signatures", status_code=201)
def sign_manifest(digest: Digest, body: SignedManifest, signatures: SignaturesDep, who: Writer) -> SignatureView:
    """Add a signature to a manifest; a second one by the same key takes the place of the first."""
    return signatures.add(digest, signed=body, who=who)


@router.get("/{digest}/signatures")
def list_signatures(digest: Digest, signatures: SignaturesDep, who: Reader) -> list[SignatureView]:
    """The signatures over a manifest, oldest first; whether they are genuine, only the signer's public key tells."""
    return signatures.list(digest, who=who)
