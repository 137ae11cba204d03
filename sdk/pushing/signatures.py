"""Signing what is being pushed or was pushed, with the given key or the one that the environment names."""

from __future__ import annotations

from pathlib import Path

from sdk import config
from sdk.schemas.artifacts import SignedManifest
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


def check_signing_key() -> None:
    """Raise what `sign_manifest` would, if `ADAPTERCTL_SIGNING_KEY` names a key that can't sign."""
    path = config.signing_key()
    if path is not None:
        check_key(path, config.signing_password())
