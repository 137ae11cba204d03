"""The keys whose signatures this registry requires, and what is checked in any other signature.

>>> trust = Trust([])
>>> trust.asks
False
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from registry.errors import Invalid, Unavailable, Verification
from sdk.errors import AdapterctlError, VerificationFailed
from sdk.errors import Unavailable as Missing
from sdk.schemas.artifacts import SignedManifest
from sdk.schemas.manifest import Manifest
from sdk.signing import PublicKey, check_bundle, find_signer, read_public_keys


class Trust:
    """Public keys, or none: then versions need no signature."""

    def __init__(self, keys: Sequence[PublicKey] = ()) -> None:
        self._keys = {key.key_id: key for key in keys}

    @classmethod
    def of(cls, setting: str | None) -> Trust:
        """Read the keys that `REGISTRY_SIGNING_KEYS` names: a PEM file, or a folder of `*.pem`.

        Raises Invalid if there are none in it, Unavailable if signatures can't be verified.
        """
        if setting is None:
            return cls()
        try:
            return cls(read_public_keys(Path(setting)))
        except Missing as error:
            raise Unavailable(error.message) from error
        except AdapterctlError as error:
            raise Invalid(f"REGISTRY_SIGNING_KEYS: {error.message}", param="REGISTRY_SIGNING_KEYS") from error

    @property
    def asks(self) -> bool:
        """Whether versions without a signature are refused."""
        return bool(self._keys)

    def require(self, manifest: Manifest, signed: SignedManifest | None) -> None:
        """Raise Verification unless a version with this manifest may be published with this signature, or without
        one.
        """
        if signed is None:
            if self.asks:
                raise Verification(
                    f"this registry accepts only signed versions; push again with --sign KEY, using one of: {self._listed()}",
                    param="signature",
                )
            return
        if self.asks and signed.key_id not in self._keys:
            raise Verification(
                f"the signature is by the key {signed.key_id[:12]}, which this registry does not accept; sign with one of: "
                f"{self._listed()}",
                param="signature",
            )
        self.check(manifest, signed)

    def check(self, manifest: Manifest, signed: SignedManifest) -> None:
        """Raise Verification for a signature that can't hold for this manifest.

        Without the key nobody can tell whether it does: if the key is not known here, only what the signature says is
        checked.
        """
        key = self._keys.get(signed.key_id)
        with _explained():
            if key is None:
                check_bundle(manifest, signed.bundle)
            else:
                find_signer(manifest, signed.bundle, [key])

    def _listed(self) -> str:
        shown = ", ".join(key_id[:12] for key_id in list(self._keys)[:5])
        return shown + (", …" if len(self._keys) > 5 else "")


@contextmanager
def _explained() -> Iterator[None]:
    """Turn the errors of the SDK's module into the registry's."""
    try:
        yield
    except VerificationFailed as error:
        raise Verification(error.message, param="signature") from error
    except Missing as error:
        raise Unavailable(error.message) from error
