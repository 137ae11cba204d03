"""The client's side of signatures: making them with a key of this machine, handing them in, asking for them."""

from __future__ import annotations

from pathlib import Path

from sdk import config
from sdk.api.files import FileClient
from sdk.errors import InvalidInput, VerificationFailed
from sdk.schemas.artifacts import SignatureView, SignedManifest
from sdk.schemas.catalog import VersionView
from sdk.schemas.manifest import Manifest
from sdk.signing import check_key, sign
from sdk.validation import parse_ref, segment


class SignatureClient(FileClient):
    """The part of a client that works on signatures."""

    def signatures(self, digest: str) -> list[SignatureView]:
        """The signatures over the manifest with this digest, the first one first. Raises NotFound.

        The registry keeps them and vouches for none: verify each with `sdk.signing.verify` and the signer's public key.
        """
        return self.call("GET", f"/manifests/{segment(digest)}/signatures", list[SignatureView])

    def sign(self, ref: str, key: str | Path | None = None, *, password: str | None = None) -> SignatureView:
        """Sign the version that `ref` names now, and hand the signature in; a key's second takes the place of its first.

        `key` is a PEM file, or else what `ADAPTERCTL_SIGNING_KEY` names. Raises NotFound, InvalidInput, NotAllowed,
        Unavailable without `[signing]`.
        """
        view = self.call("GET", "/resolve", VersionView, params={"ref": str(parse_ref(ref))})
        manifest = view.manifest
        if manifest.digest != view.digest:
            raise VerificationFailed(f"the registry gives {view.ref} another digest than its files have; don't sign it")
        signed = self.signed(manifest, key, password=password)
        if signed is None:
            raise InvalidInput("there is no key to sign with; give --key, or set ADAPTERCTL_SIGNING_KEY", param="key")
        return self.call("POST", f"/manifests/{manifest.digest}/signatures", SignatureView, body=signed)

    def signed(
        self, manifest: Manifest, key: str | Path | None = None, *, password: str | None = None
    ) -> SignedManifest | None:
        """Sign a manifest with `key`, or with what `ADAPTERCTL_SIGNING_KEY` names; None where neither does."""
        path = config.signing_key() if key is None else config.user_path(key)
        return None if path is None else sign(manifest, path, password or config.signing_password())

    def check_signing_key(self) -> None:
        """Raise what `signed` would, if `ADAPTERCTL_SIGNING_KEY` names a key that can't sign."""
        path = config.signing_key()
        if path is not None:
            check_key(path, config.signing_password())
