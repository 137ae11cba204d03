"""Signatures over versions."""

from __future__ import annotations

from pathlib import Path

from sdk.api import versions
from sdk.api.signatures import SignatureRoutes
from sdk.errors import InvalidInput
from sdk.names import parse_ref
from sdk.objects import Registry
from sdk.pushing.signatures import require_own_digest, sign_manifest
from sdk.schemas.artifacts import SignatureView, SignedManifest


class SignaturesAPI(SignatureRoutes):
    """Signatures over versions. Called, it lists those over a manifest."""

    def __init__(self, registry: Registry) -> None:
        super().__init__(registry.transport)
        self._registry = registry

    def sign(self, ref: str, key: str | Path | None = None, *, password: str | None = None) -> SignatureView:
        """Sign the version that `ref` names now, and store the signature; a second one by the same key replaces the
        first.

        `key` is a PEM file, by default the one that `ADAPTERCTL_SIGNING_KEY` names. Raises NotFound, InvalidInput,
        NotAllowed, Unavailable without `[signing]`.
        """
        view = versions.resolve(self._registry.transport, str(parse_ref(ref)))
        manifest = view.manifest
        require_own_digest(view)
        signed = sign_manifest(manifest, key, password=password)
        if signed is None:
            raise InvalidInput("there is no key to sign with; give --key, or set ADAPTERCTL_SIGNING_KEY", param="key")
        return self.add(manifest.digest, signed)

    def sign_about(
        self, folder: str | Path, key: str | Path | None = None, *, password: str | None = None
    ) -> SignedManifest:
        """Sign what a pulled folder tells of its version, for a registry that lists the key; its files are hashed first.

        The signature is written into the folder, and a push sends it. Raises NotFound for a folder that tells nothing, InvalidInput,
        VerificationFailed, Unavailable without `[signing]`.
        """
        from sdk.config import user_path
        from sdk.pushing.claims import sign_about

        return sign_about(user_path(folder), key, password=password)[1]
