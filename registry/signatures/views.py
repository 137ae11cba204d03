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
    """Add a signature to a manifest; a second one by the same key replaces the first."""
    return signatures.add(digest, signed=body, who=who)


@router.get("/{digest}/signatures")
def list_signatures(digest: Digest, signatures: SignaturesDep, who: Reader) -> list[SignatureView]:
    """The signatures over a manifest, oldest first; only the signer's public key can tell whether they are genuine."""
    return signatures.list(digest, who=who)
