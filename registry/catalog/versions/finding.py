"""From a name or a ref to a row, for somebody who may see it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

from sqlalchemy import ColumnElement, and_, or_, select, tuple_
from sqlalchemy.orm import Session, contains_eager, load_only

from registry.catalog.models import Adapter, Alias, Version
from registry.catalog.versions.lifecycle import VersionState
from registry.db.database import once
from registry.errors import Forbidden, Invalid, InvalidName, InvalidRef, NotFound
from registry.principal import Principal
from sdk.formats import refs
from sdk.formats.refs import BadNameError, BadRefError, MemberRef, Ref, namespace_of, parse_name

P = TypeVar("P")

#: The states in which a digest finds a version.
_BY_DIGEST = (VersionState.READY, VersionState.ARCHIVED, VersionState.QUARANTINED)


def parse_ref(text: str) -> Ref:
    """Parse a version's ref from outside. Raises InvalidName, or InvalidRef, also for a sweep's member."""
    return _parsed(Ref.parse, text)


def parse_ref_or_member(text: str) -> Ref | MemberRef:
    """Parse what may be a version's ref or that of a sweep's member, from outside. Raises InvalidName or InvalidRef."""
    return _parsed(refs.parse_ref_or_member, text)


def _parsed(parse: Callable[[str], P], text: str) -> P:
    try:
        return parse(text)
    except BadRefError as error:
        raise InvalidRef(str(error), param="ref") from None
    except BadNameError as error:
        raise InvalidName(str(error), param="ref") from None


def space_of(name: str) -> str:
    """The namespace of an adapter's name, as grants and records write it: "-" if it has none."""
    return namespace_of(name) or "-"


def space_to_change(adapter: str, who: Principal, action: str = "write") -> str:
    """Return the namespace of an adapter that may not be there yet. Raises NotFound, Forbidden: both say where the caller may."""
    namespace = space_of(adapter)
    missing = f"there is no adapter {adapter!r} that this token may see; choose another name"
    if (instead := who.elsewhere(action, namespace, adapter.rpartition("/")[2])) is not None:
        if who.may("read", namespace):
            raise Forbidden(instead, param="adapter")
        missing = f"there is no adapter {adapter!r} that this token may see; {instead}"
    who.require(action, namespace, missing=missing, param="adapter")
    return namespace


def find_adapter(session: Session, name: str, who: Principal, *, action: str = "read", lock: bool = False) -> Adapter:
    """Return the adapter `name`; with `lock`, nobody else can change anything about it until the transaction ends.

    Raises InvalidName; NotFound if there is none, it never had a version, or the caller may not see it; Forbidden if
    the caller may see it but `action` is not allowed.
    """
    _require_name(name)
    missing = f"there is no adapter {name!r}; see what there is with: adapterctl list"
    who.require(action, space_of(name), missing=missing, param="adapter")
    query = select(Adapter).where(Adapter.name == name)
    # On PostgreSQL the row is locked, but not against rows that refer to it; on SQLite the transaction is the only
    # writer anyway.
    if lock:
        adapter = session.scalars(query.with_for_update(key_share=True)).first()
    else:
        adapter = once(session, ("adapter", name), lambda: session.scalars(query).first())
    if adapter is None or adapter.last_number == 0:
        raise NotFound(missing, param="adapter")
    return adapter


def _require_name(name: str) -> None:
    """Raise InvalidName for what a caller calls an adapter, and no adapter can be called."""
    try:
        parse_name(name)
    except BadNameError as error:
        raise InvalidName(str(error), param="adapter") from None


def find_version(session: Session, ref: Ref, who: Principal, *, action: str = "read", lock: bool = False) -> Version:
    """Return the version that a ref names now; with `lock`, its adapter is locked first. Without, it is one query, unless there is
    none.

    Raises what `find_adapter` does, NotFound, and Invalid for a digest that fits more than one version.
    """
    _require_name(ref.adapter)
    who.require(action, space_of(ref.adapter), missing=_missing(ref), param="ref")
    adapter = select(Adapter).where(Adapter.name == ref.adapter)
    if lock:
        _require_adapter(session.scalars(adapter.with_for_update(key_share=True)).first(), ref)
    query = select(Version).join(Version.adapter).options(contains_eager(Version.adapter))
    query = query.where(Adapter.name == ref.adapter).limit(2)
    if ref.alias is not None:
        named = and_(Alias.version_pk == Version.pk, Alias.adapter_pk == Version.adapter_pk)
        query = query.join(Alias, named).where(Alias.name == ref.alias)
    elif ref.digest_prefix is not None:
        fits = Version.digest.startswith(ref.digest_prefix, autoescape=True)
        query = query.where(fits, Version.state.in_(_BY_DIGEST))
    else:
        query = query.where(Version.number == (Adapter.latest_number if ref.selector == "latest" else ref.number or 0))
    found = (
        session.scalars(query).all() if lock else once(session, ("version", ref), lambda: session.scalars(query).all())
    )
    if not found and not lock:
        _require_adapter(session.scalars(adapter).first(), ref)
    return _single(found, ref)


def _require_adapter(row: Adapter | None, ref: Ref) -> None:
    if row is None:
        raise NotFound(f"there is no adapter {ref.adapter!r}; see what there is with: adapterctl list", param="adapter")


def _single(found: Sequence[Version], ref: Ref) -> Version:
    """Return the version among those that fit a ref. Raises NotFound, Invalid."""
    if len(found) > 1:
        raise Invalid(f"{ref} matches more than one version; write more digits", param="ref")
    version = found[0] if found else None
    if version is not None and version.state == VersionState.DELETED:
        raise NotFound(
            f"{exact_ref(version)} was deleted; see what there is with: adapterctl versions {ref.adapter}", param="ref"
        )
    if version is None or (version.state == VersionState.QUARANTINED and ref.digest_prefix is None):
        raise NotFound(_missing(ref), param="ref")
    return version


def _missing(ref: Ref) -> str:
    return f"there is no {ref}; see what there is with: adapterctl versions {ref.adapter}"


def find_versions(session: Session, refs: Sequence[Ref], who: Principal, *, most_bytes: int) -> list[Version]:
    """Return the versions that refs name now, in their order, by four queries, however many they are.

    Raises what `find_version` does, and Invalid if their records have more than `most_bytes`.
    """
    for ref in refs:
        who.require("read", space_of(ref.adapter), missing=_missing(ref), param="ref")
    names = {ref.adapter for ref in refs}
    adapters = {row.name: row for row in session.scalars(select(Adapter).where(Adapter.name.in_(names)))}
    for ref in refs:
        if ref.adapter not in adapters:
            raise NotFound(
                f"there is no adapter {ref.adapter!r}; see what there is with: adapterctl list", param="adapter"
            )
    given = [(adapters[ref.adapter], ref) for ref in refs]
    asked = [_asked(row, ref) for row, ref in given if ref.alias is None]
    # Records may be long: which ones are meant is found out without them.
    brief = load_only(Version.adapter_pk, Version.number, Version.digest, Version.state, Version.record_bytes)
    found = session.scalars(select(Version).where(or_(*asked)).options(brief)).all() if asked else []
    aliases = [(row.pk, ref.alias) for row, ref in given if ref.alias is not None]
    named = select(Alias.adapter_pk, Alias.name, Version).join(Version, Version.pk == Alias.version_pk).options(brief)
    by_alias: dict[tuple[int, str | None], Version] = {}
    if aliases:
        by_alias = {(pk, alias): version for pk, alias, version in session.execute(named.where(_among(aliases)))}
    meant = []
    for row, ref in given:
        if ref.alias is None:
            fitting = [version for version in found if version.adapter_pk == row.pk and _fits(version, row, ref)]
        else:
            fitting = [by_alias[row.pk, ref.alias]] if (row.pk, ref.alias) in by_alias else []
        meant.append(_single(fitting, ref))
    size_bytes = sum({version.pk: version.record_bytes for version in meant}.values())
    if size_bytes > most_bytes:
        raise Invalid(
            f"the records of these versions have {size_bytes} bytes, more than the {most_bytes} that are read at once; name fewer",
            param="ref",
        )
    whole = select(Version).where(Version.pk.in_([version.pk for version in meant]))
    session.scalars(whole.execution_options(populate_existing=True)).all()
    return meant


def _among(aliases: Sequence[tuple[int, str | None]]) -> ColumnElement[bool]:
    condition: ColumnElement[bool] = tuple_(Alias.adapter_pk, Alias.name).in_(aliases)
    return condition


def _asked(row: Adapter, ref: Ref) -> ColumnElement[bool]:
    """The condition that a version fits a ref without an alias."""
    if ref.digest_prefix is not None:
        fits = Version.digest.startswith(ref.digest_prefix, autoescape=True)
        return and_(Version.adapter_pk == row.pk, fits, Version.state.in_(_BY_DIGEST))
    return and_(Version.adapter_pk == row.pk, Version.number == _number(row, ref))


def _number(row: Adapter, ref: Ref) -> int:
    # If the number were None, the comparison would match the versions without a number.
    return (row.latest_number or 0) if ref.selector == "latest" else (ref.number or 0)


def _fits(version: Version, row: Adapter, ref: Ref) -> bool:
    if ref.digest_prefix is not None:
        return version.digest.startswith(ref.digest_prefix) and version.state in _BY_DIGEST
    return version.number == _number(row, ref)


def exact_ref(version: Version, adapter: str | None = None) -> str:
    """The ref that will always mean this version; for one that was just made, the name of its adapter is passed in."""
    selector = f"v{version.number}" if version.number is not None else f"sha256:{version.digest}"
    return f"{version.adapter.name if adapter is None else adapter}@{selector}"


def require_digest(version: Version, digest: str | None, *, param: str) -> None:
    """Raise Invalid if the version that was found isn't the one that a request means."""
    if digest not in (None, version.digest):
        raise Invalid(
            f"{exact_ref(version)} has the digest {version.digest[:12]}, not {str(digest)[:12]}; name the version that is meant",
            param=param,
        )


def aliases_of(session: Session, pks: Collection[int]) -> dict[int, list[str]]:
    """Return the aliases of versions, by key."""
    found: dict[int, list[str]] = {}
    for pk, name in session.execute(
        select(Alias.version_pk, Alias.name).where(Alias.version_pk.in_(pks)).order_by(Alias.name)
    ):
        found.setdefault(pk, []).append(name)
    return found
