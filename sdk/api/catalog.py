"""The client's side of the catalogue: finding versions, naming them, and what becomes of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar, cast

from sdk.api.files import FileClient
from sdk.errors import InvalidInput
from sdk.objects import Evaluation, Version
from sdk.pulling.pins import require_pinned
from sdk.schemas.aliases import (
    AliasMove,
    AliasMoveView,
    AliasRemoval,
    AliasRollback,
    AliasView,
    Protection,
    ProtectionView,
)
from sdk.schemas.catalog import AdapterView, Annotation, VersionMove, VersionView
from sdk.schemas.diff import Diff
from sdk.schemas.jobs import EvaluationView
from sdk.schemas.lineage import Direction, Lineage
from sdk.schemas.pages import Page
from sdk.schemas.search import SortKey, VersionBrief
from sdk.validation import build, check_alias, check_name, check_number, parse_ref

if TYPE_CHECKING:
    from sdk.client import Client

T = TypeVar("T")

#: Rows that are asked for at once.
_PAGE = 500


class CatalogClient(FileClient):
    """The part of a client that works on adapters, versions and aliases."""

    def pages(self, path: str, row: type[T], **params: Any) -> Iterator[T]:
        """Yield the rows of a list, page by page, each asked for when it is needed."""
        cursor: str | None = None
        while True:
            given = {"limit": _PAGE, **params, "cursor": cursor}
            page = self.call("GET", path, Page[row], params=given)  # type: ignore[valid-type]
            yield from page.items
            cursor = page.next
            if cursor is None:
                return

    def get(self, ref: str) -> Version:
        """Return the version that `ref` names now. Raises InvalidName, InvalidRef, NotFound, VerificationFailed."""
        parsed = parse_ref(ref)
        view = self.call("GET", "/resolve", VersionView, params={"ref": str(parsed)})
        require_pinned(parsed, view.adapter, view.number, view.digest)
        return self._version(view)

    def adapters(self, *, namespace: str | None = None, prefix: str = "") -> list[AdapterView]:
        """Adapters by name: all that may be seen, or those of a namespace ("-": of none)."""
        return list(self.pages("/adapters", AdapterView, namespace=namespace, prefix=prefix))

    def versions(self, adapter: str, *, archived: bool = False) -> list[Version]:
        """The ready versions of an adapter, with `archived` those too, the newest first. Raises InvalidName, NotFound."""
        # A parameter that is given as text, since a server takes no other.
        params = {"adapter": check_name(adapter), "archived": "true" if archived else "false"}
        return [self._version(view) for view in self.pages("/versions", VersionView, **params)]

    def search(
        self,
        filter: str = "",  # noqa: A002 - the word that the HTTP interface and the command line have for it
        *,
        sort: SortKey = "-created",
        limit: int | None = None,
    ) -> list[VersionBrief]:
        """The versions that `filter` is true of, such as `base = tiny and rank >= 8`, at most `limit`.

        Raises InvalidInput that says where a filter is wrong; NotAllowed for quarantined versions where no admin asks.
        """
        if limit is not None and limit < 1:
            raise InvalidInput("limit is less than 1; leave it out for all that is found", param="limit")
        a_page = _PAGE if limit is None else min(limit, _PAGE)
        return list(islice(self.pages("/search", VersionBrief, filter=filter, sort=sort, limit=a_page), limit))

    def evaluations(
        self, *, digest: str | None = None, job: str | None = None, base: str | None = None
    ) -> list[Evaluation]:
        """Scores of a version, of a job, or of a bare base by its fingerprint."""
        return list(self.pages("/evaluations", EvaluationView, digest=digest, job=job, base=base))

    def lineage(self, of: str, *, direction: Direction = "both", depth: int = 8) -> Lineage:
        """What a version came from (up) and what came of it (down), up to `depth` steps away, 32 at most.

        `of` is a ref, `base:` and an id or fingerprint, or `data:` and a name or digest: what came of those. Raises
        InvalidName, InvalidRef, NotFound.
        """
        of = of if of.startswith(("base:", "data:")) else str(parse_ref(of))
        return self.call("GET", "/lineage", Lineage, params={"of": of, "direction": direction, "depth": depth})

    def diff(self, a: str, b: str, *, weights: bool = True) -> Diff:
        """How two versions differ: configuration, training, data, scores, and their weights, which are fetched.

        Raises NotFound; VerificationFailed for weights that can't be read; Unavailable where numpy is missing.
        """
        from sdk.lora.version_diff import compare_files, compare_versions
        from sdk.lora.weights import require_numpy

        one, two = self.get(a), self.get(b)
        same = one.digest == two.digest
        found = compare_versions(one.info, two.info, [] if same else one.evaluations, [] if same else two.evaluations)
        if same or not weights:
            return found
        require_numpy()
        folders = self.fill_cache(one.info.manifest), self.fill_cache(two.info.manifest)
        return found.model_copy(update={"weights": compare_files(one.info, two.info, *folders)})

    # Aliases.

    def set_alias(
        self, adapter: str, alias: str, version: str | int, *, expect: str | int | None = None, reason: str = ""
    ) -> AliasView:
        """Point an alias at a version; with `expect` only if it names that version now (0: none).

        Raises NotFound, NotAllowed for a protected alias, Conflict.
        """
        number = check_number(version)
        move = build(AliasMove, **_alias(adapter, alias, expect, reason), number=number)
        return self.call("PUT", "/aliases", AliasView, body=move)

    def promote(self, ref: str, alias: str, *, expect: str | int | None = None, reason: str = "") -> AliasView:
        """Point an alias of the adapter at the version that `ref` names now; see `set_alias`."""
        number = self.get(ref).number
        if number is None:
            raise InvalidInput(f"{ref} has no number, so no alias can name it; an admin has to release it", param="ref")
        return self.set_alias(parse_ref(ref).adapter, alias, number, expect=expect, reason=reason)

    def rollback(self, adapter: str, alias: str, *, expect: str | int | None = None, reason: str = "") -> AliasView:
        """Let an alias name again what it named before its last move; again goes one further back. Raises Conflict."""
        body = build(AliasRollback, **_alias(adapter, alias, expect, reason))
        return self.call("POST", "/aliases/rollback", AliasView, body=body)

    def remove_alias(self, adapter: str, alias: str, *, expect: str | int | None = None, reason: str = "") -> None:
        """Take an alias away; its history stays. Raises NotFound, NotAllowed, Conflict."""
        body = build(AliasRemoval, **_alias(adapter, alias, expect, reason))
        self.call("POST", "/aliases/remove", type(None), body=body)

    def aliases(self, adapter: str) -> list[AliasView]:
        """The aliases of an adapter."""
        return self.call("GET", "/aliases", list[AliasView], params={"adapter": check_name(adapter)})

    def alias_history(self, adapter: str, alias: str | None = None) -> list[AliasMoveView]:
        """The moves of an adapter's aliases, or of one, the newest first."""
        params = {"adapter": check_name(adapter), "alias": None if alias is None else check_alias(alias)}
        return list(self.pages("/aliases/history", AliasMoveView, **params))

    def protect_alias(self, scope: str, alias: str) -> ProtectionView:
        """Let only promoters move an alias: of an adapter, of a namespace (`team/*`), or of all (`*`)."""
        body = build(Protection, scope=scope, alias=alias)
        return self.call("POST", "/aliases/protect", ProtectionView, body=body)

    def unprotect_alias(self, scope: str, alias: str) -> None:
        """Let every writer move an alias again. Raises NotFound."""
        self.call("POST", "/aliases/unprotect", type(None), body=build(Protection, scope=scope, alias=alias))

    def protected_aliases(self) -> list[ProtectionView]:
        """The aliases that only promoters move."""
        return self.call("GET", "/aliases/protected", list[ProtectionView])

    # What becomes of a version.

    def archive(self, ref: str, *, reason: str = "") -> Version:
        """Hide a version from lists and `latest`; its number still finds it. Raises Conflict that names its aliases."""
        return self._move("archive", ref, reason)

    def restore(self, ref: str, *, reason: str = "") -> Version:
        """Bring an archived version back."""
        return self._move("restore", ref, reason)

    def delete(self, ref: str, *, reason: str = "") -> Version:
        """Take a version away for good; its number stays taken. Raises Conflict that names its aliases."""
        return self._move("delete", ref, reason)

    def release(self, ref: str, *, reason: str = "") -> Version:
        """Let a quarantined version be one, with the next number."""
        return self._move("release", ref, reason)

    def annotate(
        self,
        ref: str,
        *,
        description: str | None = None,
        tags: Mapping[str, str] | None = None,
        untag: list[str] | None = None,
        note: str | None = None,
    ) -> Version:
        """Write a description, tags or a note to a version; what is left out stays as it is."""
        body = build(
            Annotation,
            ref=str(parse_ref(ref)),
            description=description,
            tags=dict(tags or {}),
            untag=untag or [],
            note=note,
        )
        return self._version(self.call("PATCH", "/version", VersionView, body=body))

    def _move(self, verb: str, ref: str, reason: str) -> Version:
        body = build(VersionMove, ref=str(parse_ref(ref)), reason=reason)
        return self._version(self.call("POST", f"/version/{verb}", VersionView, body=body))

    def _version(self, view: VersionView) -> Version:
        return Version(view, cast("Client", self))


def _alias(adapter: str, alias: str, expect: str | int | None, reason: str) -> dict[str, Any]:
    return {
        "adapter": check_name(adapter),
        "alias": check_alias(alias),
        "expect": None if expect is None else check_number(expect),
        "reason": reason,
    }
