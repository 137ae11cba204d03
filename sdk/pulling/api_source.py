"""The requests of a pull, sent over a client's own transport."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sdk.api import artifacts, bases, versions
from sdk.api.signatures import SignatureRoutes
from sdk.api.statements import StatementRoutes
from sdk.api.transport import Transport
from sdk.names import parse_ref_or_member
from sdk.pulling.ranges import BlobLocation
from sdk.pulling.source import ManifestSignature, Resolved, StoredStatement


class ApiSource:
    """A registry behind a transport: over HTTP, in this process, or through a proxy."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def resolve(self, ref: str) -> Resolved:
        """Return the version that a ref names now. Raises InvalidName, InvalidRef, NotFound."""
        view = versions.resolve(self._transport, str(parse_ref_or_member(ref)))
        return Resolved(view.ref, view.adapter, view.number, view.digest, view.manifest)

    def locations(self, digest: str) -> Sequence[BlobLocation]:
        """Return where to fetch the files of a manifest from. Raises NotFound."""
        return artifacts.locate_files(self._transport, digest)

    def location_of(self, fingerprint: str, namespace: str) -> str | None:
        """Return where a base lies as a namespace knows it; None if that is not stated. Raises NotFound."""
        return bases.get(self._transport, fingerprint, namespace=namespace).location

    def signatures_of(self, digest: str) -> list[ManifestSignature]:
        """Return the signatures over a manifest. Raises NotFound."""
        return [ManifestSignature(one.key_id, one.bundle) for one in SignatureRoutes(self._transport).list(digest)]

    def statements_about(self, adapter: str, alias: str) -> list[StoredStatement]:
        """Return the signed statements of what an alias names. Raises NotFound."""
        stated = StatementRoutes(self._transport)(adapter, alias).statements
        return [StoredStatement(one.statement.model_dump(), one.bundle) for one in stated]

    def about_of(self, ref: str) -> Any:
        """Return what is recorded of a version, as plain JSON. Raises NotFound."""
        return versions.about(self._transport, ref).model_dump(mode="json")
