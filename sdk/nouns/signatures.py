"""Signatures over versions."""

from __future__ import annotations

from pathlib import Path

from sdk.api.signatures import SignatureRoutes
from sdk.pushing.signatures import sign_version
from sdk.schemas.artifacts import SignatureView


class SignaturesAPI(SignatureRoutes):
    """Signatures over versions. Called, it lists those over a manifest."""

    def sign(self, ref: str, key: str | Path | None = None, *, password: str | None = None) -> SignatureView:
        """Sign the version that `ref` names now, and store the signature; a second one by the same key replaces the
        first.

        `key` is a PEM file, by default the one that `ADAPTERCTL_SIGNING_KEY` names. Raises NotFound, InvalidInput,
        NotAllowed, Unavailable without `[signing]`.
        """
        return sign_version(self._transport, ref, key, password=password)
