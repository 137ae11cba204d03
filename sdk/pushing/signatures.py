"""Signing what is being pushed or was pushed, with the given key or the one that the environment names."""

from __future__ import annotations

from pathlib import Path

from sdk import config
from sdk.errors import VerificationFailed
from sdk.schemas.artifacts import SignedManifest
from sdk.schemas.catalog import VersionView
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


def require_own_digest(view: VersionView) -> None:
    """Raise VerificationFailed if a registry shows a version's files with another digest than theirs."""
    if view.manifest.digest != view.digest:
        raise VerificationFailed(f"the registry gives {view.ref} a digest that doesn't match its files; don't sign it")


def check_signing_key() -> None:
    """Raise what `sign_manifest` would, if `ADAPTERCTL_SIGNING_KEY` names a key that can't sign."""
    path = config.signing_key()
    if path is not None:
        check_key(path, config.signing_password())
