"""Versions of adapters: finding, publishing, annotating, archiving and removing them, and what each was made from."""

from __future__ import annotations

from collections.abc import Iterator

from sdk.api.transport import Transport, pages
from sdk.schemas.catalog import (
    AdapterView,
    Annotation,
    Publication,
    Published,
    SortKey,
    VersionBrief,
    VersionMove,
    VersionView,
)
from sdk.schemas.lineage import Direction, Lineage
from sdk.schemas.probe import VersionNorms
from sdk.schemas.removal import GcReport, GcRequest, RetentionRule, RetentionView


def adapters(transport: Transport, *, namespace: str | None = None, prefix: str = "") -> Iterator[AdapterView]:
    """Yield adapters by name: all that this client may see, or those of a namespace ("-": names without one)."""
    return pages(transport, "/adapters", AdapterView, params={"namespace": namespace, "prefix": prefix})


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


def search(
    transport: Transport,
    filter: str,  # noqa: A002 - the word of the HTTP interface
    *,
    sort: SortKey,
    limit: int | None,
    scores_of: str | None = None,
) -> Iterator[VersionBrief]:
    """Yield the versions that match a filter, at most `limit`.

    Raises InvalidInput, which says where the filter is wrong, NotFound for a namespace that can't be read, and
    NotAllowed.
    """
    asked = {"filter": filter, "sort": sort, "scores_of": scores_of}
    return pages(transport, "/search", VersionBrief, params=asked, limit=limit)


def trace(
    transport: Transport,
    of: str,
    *,
    direction: Direction,
    depth: int,
    base_namespace: str | None = None,
    published: bool = False,
) -> Lineage:
    """Return what `of` (a ref, `base:NAME` or `data:NAME`) was made from, and what was made from it.

    `base_namespace` and `published` say whose base is meant. Raises NotFound, InvalidInput for a name that means several.
    """
    params = {
        "of": of,
        "direction": direction,
        "depth": depth,
        "base_namespace": base_namespace,
        "published": published or None,
    }
    return transport.call("GET", "/lineage", Lineage, params=params)


#: A collection goes through everything that is stored.
_COLLECTING_S = 4 * 3600.0


def retention(transport: Transport, adapter: str) -> RetentionView:
    """Return which versions of an adapter garbage collection keeps. Raises NotFound."""
    return transport.call("GET", "/retention", RetentionView, params={"adapter": adapter})


def set_retention(transport: Transport, adapter: str, rule: RetentionRule) -> RetentionView:
    """Set which versions of an adapter garbage collection keeps. Raises NotFound, NotAllowed."""
    return transport.call("PUT", "/retention", RetentionView, body=rule, params={"adapter": adapter})


def clear_retention(transport: Transport, adapter: str) -> None:
    """Keep all versions of an adapter again. Raises NotFound, NotAllowed."""
    transport.call("DELETE", "/retention", type(None), params={"adapter": adapter})


def collect_garbage(transport: Transport, request: GcRequest) -> GcReport:
    """Remove everything that is kept neither by the rules nor by a name. Raises NotAllowed."""
    return transport.call("POST", "/gc", GcReport, body=request, timeout_s=_COLLECTING_S)
