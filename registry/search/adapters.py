"""The catalogue: adapters with what is known of them, or those that have a version for which a filter is true."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, func, select, tuple_
from sqlalchemy.orm import Session

from registry.catalog.models import Adapter, Alias, Version
from registry.datasets.finding import first_names
from registry.db.database import Database
from registry.db.paging import Paged, in_order, read_cursor, write_cursor
from registry.db.stored_json import table
from registry.errors import Invalid
from registry.evaluations.models import AdapterScore
from registry.principal import Principal, require_namespace
from registry.search.compile import condition_of
from registry.search.grammar import parse
from sdk.schemas.evaluation import Better, better_is
from sdk.schemas.wire import digest_of

#: The alias whose version is shown first.
FIRST_ALIAS = "production"
#: How many namespaces are listed.
MOST_NAMESPACES = 200
#: How many adapters are found first, and then compared with as constants.
_FEW = 500
#: So many versions that fit are read to see whether few adapters have them.
_FIRST = 2000
#: How many tags of a version are shown in a list.
_MOST_TAGS = 4


@dataclass(frozen=True)
class ShownScore:
    """A score as lists show it."""

    metric: str
    value: float
    low: float | None
    high: float | None
    dataset: str
    #: `NAME@v2` of the dataset, if the reader may see one.
    dataset_name: str | None
    evaluation: str
    number: int | None = None

    @property
    def better(self) -> Better | None:
        """Whether less or more is better, if that is known."""
        return better_is(self.metric)


@dataclass(frozen=True)
class AdapterEntry:
    """An adapter in the catalogue."""

    name: str
    namespace: str
    versions: int
    size_bytes: int
    latest: int | None
    #: What `FIRST_ALIAS` names.
    production: int | None
    #: The newest version for which the filter is true; None without a filter, or for one without a number.
    match: int | None
    score: ShownScore | None
    #: Of the latest version.
    base: str | None
    kind: str
    tags: dict[str, str]
    created_by: str
    created_at: datetime


@dataclass(frozen=True)
class Catalogue:
    """One page of adapters."""

    page: Paged[AdapterEntry]
    #: The namespaces that the reader may see and that have adapters.
    namespaces: Sequence[str]

    @classmethod
    def nothing(cls) -> Catalogue:
        """A page without adapters: of a filter that says nothing."""
        return cls(Paged(items=[], next=None), [])


class AdapterSearch:
    """The service that lists adapters for people."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def find(
        self,
        *,
        wanted: str = "",
        namespace: str | None = None,
        who: Principal,
        cursor: str | None = None,
        limit: int = 50,
    ) -> Catalogue:
        """The adapters that the caller may see, by name, in eight statements however many there are; with `wanted`, those that
        have a version for which that filter is true, in the grammar of `Search`.

        Raises Invalid, InvalidName, NotFound, Forbidden.
        """
        wanted = wanted.strip()
        search = digest_of([wanted, namespace])[:16]
        position = None
        if cursor is not None:
            of, *position = read_cursor(cursor, (str, str))
            if of != search:
                raise Invalid("the cursor belongs to another filter; start again without one", param="cursor")
        query = select(Adapter).where(who.within(Adapter.namespace))
        if namespace is not None:
            require_namespace(namespace, "or '-' for names without one", also=("-",), param="namespace")
            who.require("read", namespace, param="namespace")
            query = query.where(Adapter.namespace == namespace)
        with self._db.read() as session:
            if wanted:
                fits = condition_of(session, parse(wanted), who)
                query = query.where(Adapter.last_number > 0, _has_version(session, fits))
            else:
                fits = None
                query = query.where(Adapter.latest_number.is_not(None))
            ordered = in_order(query, [Adapter.name], position, newest_first=False)
            rows = session.scalars(ordered.limit(limit + 1)).all()
            shown = rows[:limit]
            following = write_cursor((search, shown[-1].name)) if len(rows) > limit else None
            entries = _entries(session, shown, fits, who)
            return Catalogue(Paged(items=entries, next=following), _namespaces(session, who))


def _has_version(session: Session, fits: ColumnElement[bool]) -> ColumnElement[bool]:
    """The condition that an adapter has a version for which another is true."""
    # Where few have, walking all adapters would take long; where many have, a page is full soon. The first versions mostly say
    # which: telling apart all that fit takes the database longer than the page itself.
    some = select(Version.adapter_pk).join(Adapter, Adapter.pk == Version.adapter_pk).where(fits)
    first = session.scalars(some.limit(_FIRST)).all()
    found = set(first)
    if len(first) == _FIRST and len(found) <= _FEW:
        found = set(session.scalars(some.distinct().limit(_FEW + 1)))
    if len(found) <= _FEW:
        few: ColumnElement[bool] = Adapter.pk.in_(found)
        return few
    return select(Version.pk).where(Version.adapter_pk == Adapter.pk, fits).correlate(Adapter).exists()


def _entries(
    session: Session, rows: Sequence[Adapter], fits: ColumnElement[bool] | None, who: Principal
) -> list[AdapterEntry]:
    pks = [row.pk for row in rows]
    if not pks:
        return []
    aliased = select(Alias.adapter_pk, Version.number).join(Version, Version.pk == Alias.version_pk)
    production = dict(session.execute(aliased.where(Alias.adapter_pk.in_(pks), Alias.name == FIRST_ALIAS)).all())
    columns = (Version.adapter_pk, Version.base_id, Version.kind, Version.tags, Version.created_by, Version.created_at)
    last = tuple_(Version.adapter_pk, Version.number).in_(
        [(row.pk, row.latest_number or row.last_number) for row in rows]
    )
    latest = {row.adapter_pk: row for row in session.execute(select(*columns).where(last))}
    matches: dict[int, int | None] = {}
    if fits is not None:
        newest = select(Version.adapter_pk, func.max(Version.number)).join(Adapter, Adapter.pk == Version.adapter_pk)
        newest = newest.where(Version.adapter_pk.in_(pks), fits).group_by(Version.adapter_pk)
        matches = dict(session.execute(newest).all())
    scored = select(AdapterScore).where(AdapterScore.adapter_pk.in_(pks), AdapterScore.number.is_not(None))
    scores = {row.adapter_pk: row for row in session.scalars(scored)}
    names = first_names(session, {row.dataset_digest for row in scores.values() if row.dataset_digest is not None}, who)
    return [
        AdapterEntry(
            name=row.name,
            namespace=row.namespace,
            versions=row.ready_versions,
            size_bytes=row.size_bytes,
            latest=row.latest_number,
            production=production.get(row.pk),
            match=matches.get(row.pk),
            score=_score(scores.get(row.pk), names),
            base=None if row.pk not in latest else latest[row.pk].base_id,
            kind="adapter" if row.pk not in latest else latest[row.pk].kind,
            tags={} if row.pk not in latest else dict(list(table(latest[row.pk].tags).items())[:_MOST_TAGS]),
            created_by=row.created_by if row.pk not in latest else latest[row.pk].created_by,
            created_at=row.created_at if row.pk not in latest else latest[row.pk].created_at,
        )
        for row in rows
    ]


def _score(row: AdapterScore | None, names: dict[str, str]) -> ShownScore | None:
    if row is None or row.metric is None or row.value is None or row.dataset_digest is None:
        return None
    return ShownScore(
        metric=row.metric,
        value=row.value,
        low=row.low,
        high=row.high,
        dataset=row.dataset_digest,
        dataset_name=names.get(row.dataset_digest),
        evaluation=row.evaluation_id or "",
        number=row.number,
    )


def _namespaces(session: Session, who: Principal) -> list[str]:
    """Return the namespaces of adapters that the caller may see, each found in the index after the one before it."""
    seen = who.within(Adapter.namespace)
    found = select(func.min(Adapter.namespace).label("namespace")).where(seen).cte("spaces", recursive=True)
    following = select(func.min(Adapter.namespace)).where(Adapter.namespace > found.c.namespace, seen)
    found = found.union_all(select(following.correlate(found).scalar_subquery()).where(found.c.namespace.is_not(None)))
    return list(session.scalars(select(found.c.namespace).where(found.c.namespace.is_not(None)).limit(MOST_NAMESPACES)))
