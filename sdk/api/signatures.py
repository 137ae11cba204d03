"""Signatures over manifests."""

from __future__ import annotations

import builtins

from sdk.api.transport import Routes
from sdk.names import segment
from sdk.notebook.table_list import TableList
from sdk.schemas.artifacts import SignatureView, SignedManifest


class SignatureRoutes(Routes):
    """What can be asked about signatures without a key."""

    def __call__(self, digest: str) -> builtins.list[SignatureView]:
        """The signatures over the manifest with this digest, oldest first. Raises NotFound.

        The registry stores them but vouches for none: verify each with `sdk.signing.verify` and the signer's public
        key.
        """
        return TableList(self._transport.call("GET", f"/manifests/{segment(digest)}/signatures", list[SignatureView]))

    list = __call__

    def add(self, digest: str, signed: SignedManifest) -> SignatureView:
        """Add a signature that was made; a second one by the same key replaces the first.

        Raises NotFound, NotAllowed, InvalidInput.
        """
        path = f"/manifests/{segment(digest)}/signatures"
        return self._transport.call("POST", path, SignatureView, body=signed)
