"""Signing what is being pushed or was pushed, with the given key or the one that the environment names."""

from __future__ import annotations

from pathlib import Path

from sdk import config
from sdk.api import versions
from sdk.api.signatures import SignatureRoutes
from sdk.api.transport import Transport
from sdk.errors import InvalidInput, VerificationFailed
from sdk.names import parse_ref
from sdk.schemas.artifacts import SignatureView, SignedManifest
from sdk.schemas.manifest import Manifest
from sdk.signing import check_key, sign


def sign_manifest(
    manifest: Manifest, key: str | Path | None = None, *, password: str | None = None
) -> SignedManifest | None:
    """Sign a manifest with `key`, or with what `ADAPTERCTL_SIGNING_KEY` names; None without either.

    Raises NotFound, InvalidInput for a key that can't sign, Unavailable without `[signing]`.
    """
    path = config.signing_key() if key is None else config.user_path(key)
    return None if path is None else sign(manifest, path, password or config.signing_password())


def sign_version(
    transport: Transport, ref: str, key: str | Path | None = None, *, password: str | None = None
) -> SignatureView:
    """Sign the version that a ref names now, and store the signature; see `SignaturesAPI.sign`."""
    view = versions.resolve(transport, str(parse_ref(ref)))
    manifest = view.manifest
    if manifest.digest != view.digest:
        raise VerificationFailed(f"the registry gives {view.ref} a digest that doesn't match its files; don't sign it")
    signed = sign_manifest(manifest, key, password=password)
    if signed is None:
        raise InvalidInput("there is no key to sign with; give --key, or set ADAPTERCTL_SIGNING_KEY", param="key")
    return SignatureRoutes(transport).add(manifest.digest, signed)


def check_signing_key() -> None:
    """Raise what `sign_manifest` would, if `ADAPTERCTL_SIGNING_KEY` names a key that can't sign."""
    path = config.signing_key()
    if path is not None:
        check_key(path, config.signing_password())
