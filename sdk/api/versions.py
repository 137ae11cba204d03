"""Versions of adapters: finding, publishing, annotating, archiving and removing them, and what each was made from."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Generic, TypeVar

from sdk.api.artifacts import locate_files
from sdk.api.transport import Routes, Transport, pages
from sdk.errors import NotFound
from sdk.given_values import build, version_move
from sdk.names import check_name, parse_ref, parse_ref_or_member
from sdk.notebook.table_list import TableList
from sdk.schemas.artifacts import Transfer
from sdk.schemas.catalog import (
    AdapterView,
    Annotation,
    Publication,
    Published,
    VersionBrief,
    VersionCopy,
    VersionView,
)
from sdk.schemas.claims import About, ClaimsView
from sdk.schemas.lineage import Direction, Lineage
from sdk.schemas.probe import VersionNorms
from sdk.schemas.series import Series, joined
from sdk.schemas.training_rows import TrainingRowsView

V = TypeVar("V")

#: A version's files are hashed before it is published.
_PUBLISHING_S = 600.0


def resolve(transport: Transport, ref: str) -> VersionView:
    """Return the version, or the member of a sweep, that a ref names now. Raises InvalidName, InvalidRef, NotFound."""
    return transport.call("GET", "/resolve", VersionView, params={"ref": ref})


def norms(transport: Transport, ref: str) -> VersionNorms | None:
    """Return what the version that a ref names now adds to its base; None if the registry could not derive it.

    Raises InvalidName, InvalidRef, NotFound.
    """
    found = transport.call("GET", "/version/norms", VersionNorms, params={"ref": ref})
    return None if found.norms is None else found


def about(transport: Transport, ref: str) -> About:
    """Return what is recorded of the version that a ref names now, as a pull writes it beside the files.

    Raises InvalidName, InvalidRef, NotFound.
    """
    return transport.call("GET", "/version/about", About, params={"ref": ref})


def claims(transport: Transport, ref: str) -> ClaimsView | None:
    """Return what the folder that the version was pushed from has told of it; None if nothing. Raises InvalidName, InvalidRef."""
    try:
        return transport.call("GET", "/version/claims", ClaimsView, params={"ref": ref})
    except NotFound:
        return None


def series(transport: Transport, ref: str, *, buckets: int | None = None, keys: Iterable[str] | None = None) -> Series:
    """Return what the training of the version that a ref names now measured, by step, in few buckets.

    Raises InvalidName, InvalidRef, NotFound.
    """
    params = {"ref": ref, "buckets": buckets, "keys": joined(keys)}
    return transport.call("GET", "/version/series", Series, params=params)


def publish(transport: Transport, publication: Publication) -> Published:
    """Publish uploaded files as a version; waits until it has its number. Raises VerificationFailed, NotAllowed."""
    return transport.call("POST", "/versions", Published, body=publication, timeout_s=_PUBLISHING_S)


def copy(transport: Transport, body: VersionCopy) -> Published:
    """Make a version's bytes a version of another adapter; waits until it has its number. Raises NotFound, NotAllowed, Conflict."""
    return transport.call("POST", "/version/copy", Published, body=body, timeout_s=_PUBLISHING_S)


def search(
    transport: Transport,
    filter: str,  # noqa: A002 - the word of the HTTP interface
    *,
    sort: str,
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


def training_rows(transport: Transport, ref: str) -> TrainingRowsView:
    """Return the first rows that the version that a ref names now was trained on, as its training saw them.

    Raises InvalidName, InvalidRef, NotFound also for rows that nobody has recorded, or that this client may not read.
    """
    return transport.call("GET", "/version/training-rows", TrainingRowsView, params={"ref": ref})


class AdaptersAPI(Routes):
    """Adapters. Called, it lists them by name."""

    def __call__(self, *, namespace: str | None = None, prefix: str = "") -> builtins.list[AdapterView]:
        """Adapters by name: all that this client may see, or those of a namespace ("-": names without one)."""
        params = {"namespace": namespace, "prefix": prefix}
        return TableList(pages(self._transport, "/adapters", AdapterView, params=params))

    list = __call__


class VersionRoutes(Generic[V]):
    """What can be asked about versions without files of this machine."""

    # `made` is what versions are given out as.
    def __init__(self, transport: Transport, made: Callable[[VersionView], V]) -> None:
        self._transport, self._made = transport, made

    def __call__(self, adapter: str, *, archived: bool = False) -> builtins.list[V]:
        """The ready versions of an adapter, and with `archived` the archived ones, newest first. Raises InvalidName,
        NotFound.
        """
        return TableList(self._made(view) for view in self._views(adapter, archived=archived))

    list = __call__

    def _views(self, adapter: str, *, archived: bool) -> builtins.list[VersionView]:
        # As text, since the registry accepts a boolean only in that form.
        params = {"adapter": check_name(adapter), "archived": "true" if archived else "false"}
        return [*pages(self._transport, "/versions", VersionView, params=params)]

    def norms(self, ref: str) -> VersionNorms | None:
        """The norm of ΔW of each module of the version that `ref` names now, as the registry derived it from the bytes.

        None if it could not derive them. Raises InvalidName, InvalidRef, NotFound.
        """
        return norms(self._transport, str(parse_ref(ref)))

    def series(self, ref: str, *, buckets: int | None = None, keys: Iterable[str] | None = None) -> Series:
        """What the training of the version, or the member of a sweep, that `ref` names now measured, by step: each series in
        few buckets, also when the job's own points are gone.

        Raises InvalidName, InvalidRef, NotFound.
        """
        return series(self._transport, str(parse_ref_or_member(ref)), buckets=buckets, keys=keys)

    def training_rows(self, ref: str) -> TrainingRowsView:
        """The first rows that the version that `ref` names now was trained on, as its training saw them: cut, rendered and in
        the order of its steps, with what the loss was computed on.

        Raises InvalidName, InvalidRef, NotFound also for rows that nobody has recorded, or that this client may not read.
        """
        return training_rows(self._transport, str(parse_ref(ref)))

    def locate(self, digest: str) -> builtins.list[Transfer]:
        """Return where to fetch the files of the manifest with this digest from. Raises NotFound."""
        return locate_files(self._transport, digest)

    def copy(
        self,
        ref: str,
        adapter: str,
        *,
        digest: str | None = None,
        tags: Mapping[str, str] | None = None,
        description: str | None = None,
    ) -> V:
        """Make the bytes of the version that `ref` names now a version of `adapter` too, with the same past; return that one.

        Nothing is sent: the record, the datasets and the parents are the registry's own, and an edge "copied-from" leads to the
        version, which stays as it is with its aliases. `tags` are added to the version's; `description`, if given, takes the
        place of its own. `digest` refuses another version than that. The same copy again returns the one that is there.
        Raises InvalidName, InvalidRef, NotFound, NotAllowed, InvalidInput for a merged model, Conflict for its own adapter.
        """
        body = build(
            VersionCopy,
            ref=str(parse_ref(ref)),
            adapter=check_name(adapter),
            digest=digest,
            tags=dict(tags or {}),
            description=description,
        )
        return self._made(copy(self._transport, body).version)

    def copy_all(self, adapter: str, new: str) -> builtins.list[tuple[str, V]]:
        """Copy every version of an adapter, also archived ones, oldest first, to another name; return the ref of each and its copy.

        Numbers begin at the next one there, without gaps. What was copied before is found again, so that a copy that broke off
        goes on. Raises what `copy` does.
        """
        views = self._views(adapter, archived=True)
        return [(view.ref, self.copy(view.ref, new, digest=view.digest)) for view in reversed(views)]

    def archive(self, ref: str, *, reason: str = "") -> V:
        """Hide a version from lists and `latest`; its number still finds it. Raises Conflict that names its aliases."""
        view = self._transport.call("POST", "/version/archive", VersionView, body=version_move(ref, reason))
        return self._made(view)

    def restore(self, ref: str, *, reason: str = "") -> V:
        """Bring an archived version back."""
        view = self._transport.call("POST", "/version/restore", VersionView, body=version_move(ref, reason))
        return self._made(view)

    def delete(self, ref: str, *, reason: str = "") -> V:
        """Delete a version for good; its number stays taken. Raises Conflict that names its aliases."""
        view = self._transport.call("POST", "/version/delete", VersionView, body=version_move(ref, reason))
        return self._made(view)

    def release(self, ref: str, *, reason: str = "") -> V:
        """Release a quarantined version, with the next number."""
        view = self._transport.call("POST", "/version/release", VersionView, body=version_move(ref, reason))
        return self._made(view)

    def annotate(
        self,
        ref: str,
        *,
        description: str | None = None,
        tags: Mapping[str, str] | None = None,
        untag: builtins.list[str] | None = None,
        note: str | None = None,
    ) -> V:
        """Add a description, tags or a note to a version; anything left out stays as it is. Raises NotFound,
        NotAllowed.
        """
        annotation = build(
            Annotation,
            ref=str(parse_ref(ref)),
            description=description,
            tags=dict(tags or {}),
            untag=untag or [],
            note=note,
        )
        return self._made(self._transport.call("PATCH", "/version", VersionView, body=annotation))
