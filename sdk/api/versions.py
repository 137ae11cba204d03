"""Versions of adapters: finding, publishing, annotating, archiving and removing them."""

from __future__ import annotations

from collections.abc import Iterator

from sdk.api.pages import pages
from sdk.api.transport import Transport
from sdk.schemas.catalog import Annotation, Publication, Published, VersionMove, VersionView
from sdk.schemas.probe import VersionNorms

#: A version's files are hashed before it is published.
_PUBLISHING_S = 600.0


def resolve(transport: Transport, ref: str) -> VersionView:
    """Return the version that a ref names now. Raises InvalidName, InvalidRef, NotFound."""
    return transport.call("GET", "/resolve", VersionView, params={"ref": ref})


def norms(transport: Transport, ref: str) -> VersionNorms:
    """Return the record of what the version that a ref names now adds to its base.

    Raises InvalidName, InvalidRef, NotFound.
    """
    return transport.call("GET", "/version/norms", VersionNorms, params={"ref": ref})


def publish(transport: Transport, publication: Publication) -> Published:
    """Publish uploaded files as a version; waits until it has its number. Raises VerificationFailed, NotAllowed."""
    return transport.call("POST", "/versions", Published, body=publication, timeout_s=_PUBLISHING_S)


def iterate(transport: Transport, adapter: str, *, archived: bool = False) -> Iterator[VersionView]:
    """Yield the ready versions of an adapter, with `archived` also the archived ones, newest first. Raises NotFound."""
    # As text, since the registry accepts a boolean only in that form.
    params = {"adapter": adapter, "archived": "true" if archived else "false"}
    return pages(transport, "/versions", VersionView, params=params)


def annotate(transport: Transport, annotation: Annotation) -> VersionView:
    """Add a description, tags or a note to a version. Raises NotFound, NotAllowed."""
    return transport.call("PATCH", "/version", VersionView, body=annotation)


def archive(transport: Transport, move: VersionMove) -> VersionView:
    """Hide a version from lists and `latest`. Raises Conflict, which names its aliases."""
    return transport.call("POST", "/version/archive", VersionView, body=move)


def restore(transport: Transport, move: VersionMove) -> VersionView:
    """Bring an archived version back. Raises NotFound, Conflict."""
    return transport.call("POST", "/version/restore", VersionView, body=move)


def delete(transport: Transport, move: VersionMove) -> VersionView:
    """Remove a version for good. Raises Conflict, which names its aliases."""
    return transport.call("POST", "/version/delete", VersionView, body=move)


def release(transport: Transport, move: VersionMove) -> VersionView:
    """Accept a quarantined version, which gets the next number. Raises NotFound, NotAllowed."""
    return transport.call("POST", "/version/release", VersionView, body=move)
