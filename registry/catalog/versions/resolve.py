"""From a ref to the JSON of the version that it names now: every server of adapters waits for this."""

from __future__ import annotations

from functools import partial

from sqlalchemy import ClauseElement, Integer, String, bindparam, or_, select

from registry.catalog.models import Adapter, Alias, Version, VersionDocument
from registry.catalog.versions.finding import parse_ref_or_member, space_of
from registry.catalog.versions.lifecycle import PULLABLE
from registry.catalog.versions.service import Catalog
from registry.db.database import Database
from registry.http.routes import answered
from registry.principal import Principal
from sdk.formats.refs import MemberRef, Ref

_of_adapter = (
    select(VersionDocument.body, VersionDocument.foreign)
    .join(Version, Version.pk == VersionDocument.version_pk)
    .join(Adapter, Adapter.pk == Version.adapter_pk)
    .where(Adapter.name == bindparam("adapter", type_=String), or_(*(Version.state == state for state in PULLABLE)))
)
_latest = _of_adapter.where(Version.number == Adapter.latest_number)
_numbered = _of_adapter.where(Version.number == bindparam("selector", type_=Integer))
_aliased = _of_adapter.join(Alias, (Alias.version_pk == Version.pk) & (Alias.adapter_pk == Adapter.pk)).where(
    Alias.name == bindparam("selector", type_=String)
)


class Resolver:
    """Answers from the text that is stored for each version; if one read doesn't find it, the catalogue says why."""

    def __init__(self, db: Database, catalog: Catalog) -> None:
        self._db = db
        self._catalog = catalog

    async def resolve(self, ref: str, *, who: Principal) -> str:
        """Return what a ref names now, as JSON. Raises InvalidName, InvalidRef, NotFound, Unavailable."""
        parsed = parse_ref_or_member(ref)
        wanted = _wanted(parsed, who)
        if wanted is not None:
            read = partial(self._db.row, wanted[0], **wanted[1])
            # SQLite is read in microseconds or not at all, and a thread would take ten times as long.
            found = read() if self._db.is_sqlite else await answered(read)
            # A single read can't tell which versions of other namespaces the caller may see.
            if found is not None and (not found[1] or who.namespaces() is None):
                body: str = found[0]
                return body
        view = await answered(self._catalog.resolve, ref, who=who)
        return view.model_dump_json()


def _wanted(ref: Ref | MemberRef, who: Principal) -> tuple[ClauseElement, dict[str, str | int]] | None:
    """What to read for a ref; None for a digest, which may fit more than one version, for a member of a sweep, and for what
    the caller may not see.
    """
    if isinstance(ref, MemberRef) or not who.may("read", space_of(ref.adapter)):
        return None
    values: dict[str, str | int] = {"adapter": ref.adapter}
    if ref.selector == "latest":
        return _latest, values
    if ref.number is not None:
        return _numbered, {**values, "selector": ref.number}
    if ref.alias is not None:
        return _aliased, {**values, "selector": ref.alias}
    return None
