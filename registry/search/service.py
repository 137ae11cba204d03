"""Searching for versions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, select
from sqlalchemy.orm import Session

from registry.catalog.models import Adapter, BaseModelRow, Origin, Version
from registry.catalog.versions.finding import aliases_of, space_of
from registry.catalog.versions.origins import first_origins
from registry.db.database import Database
from registry.db.paging import Paged, fitting, in_order, read_cursor, write_cursor
from registry.db.stored_json import readable, table
from registry.errors import Invalid
from registry.evaluations.models import EvaluationMetric
from registry.principal import Principal
from registry.search.compile import condition_of, mentions_scores, scored_by
from registry.search.fields import Node
from registry.search.grammar import parse
from registry.search.sorting import SearchOrder, order_of
from sdk.schemas.catalog import BaseName, VersionBrief
from sdk.schemas.wire import digest_of

#: What says where a version stands in an order, and how long its record is.
_POSITION: tuple[Any, ...] = (
    Version.pk,
    Version.number,
    Version.rank,
    Version.record_bytes,
    Adapter.name.label("adapter"),
)
#: Not the rows themselves, because they would load their bases' tensors.
_COLUMNS = (
    Version.pk,
    Version.number,
    Version.digest,
    Version.state,
    Version.kind,
    Version.base_pk,
    Version.base_id,
    Version.base_revision,
    Version.lora,
    Version.rank,
    Version.method,
    Version.tags,
    Version.created_by,
    Version.created_at,
    Adapter.name.label("adapter"),
)


class Search:
    """The service that finds versions by a filter."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def search(
        self,
        *,
        wanted: str,
        sort: str,
        cursor: str | None,
        limit: int,
        who: Principal,
        scores_of: str | None = None,
    ) -> Paged[VersionBrief]:
        """The versions that the caller may see and for which the filter `wanted` is true, in the order of `sort`.

        A version's scores are those of its own namespace, or those of the namespace `scores_of` ("*": of any). Raises
        Invalid for a filter outside the grammar, for an unknown order and for a cursor of another search; Forbidden if quarantined versions
        are asked for and the caller isn't an admin anywhere; NotFound if they may not read the scores of `scores_of`.
        """
        tree = parse(wanted)
        search = digest_of([str(tree), sort, *([] if scores_of is None else [scores_of])])[:16]
        with self._db.read() as session:
            order = order_of(session, sort, who, scores_of)
            seen = None if cursor is None else _position(cursor, search, order)
            by_score = () if order.score is None else (order.score.label("score"),)
            query = select(*_POSITION, *by_score).join(Adapter, Adapter.pk == Version.adapter_pk)
            query = query.where(condition_of(session, tree, who, scores_of))
            query = in_order(query, order.columns, seen, newest_first=order.descending)
            rows = session.execute(query.limit(limit + 1)).all()
            limit = fitting((row.record_bytes for row in rows[:limit]), limit)
            following = None
            if len(rows) > limit:
                following = write_cursor((search, *order.position(rows[limit - 1])))
            briefs = _briefs(session, [row.pk for row in rows[:limit]], tree, who, scores_of)
            if by_score:
                scores = {row.pk: row.score for row in rows}
                briefs = {pk: brief.model_copy(update={"score": scores[pk]}) for pk, brief in briefs.items()}
            return Paged(items=list(briefs.values()), next=following)


def _position(cursor: str, search: str, order: SearchOrder) -> tuple[Any, ...]:
    """Return where a page begins. Raises Invalid for a cursor of another search, whose pages are different."""
    of, *position = read_cursor(cursor, (str, *order.kinds))
    if of != search:
        raise Invalid("the cursor belongs to another filter or order; start again without one", param="cursor")
    return tuple(position)


def _scores_of(
    session: Session, tree: Node, rows: Sequence[Row[Any]], who: Principal, scores_of: str | None
) -> dict[int, list[str]]:
    """The namespaces that made the scores by which versions were found, by key."""
    if not mentions_scores(tree):
        return {}
    if scores_of is None:
        return {row.pk: [space_of(row.adapter)] for row in rows}
    made: dict[int, list[str]] = {}
    query = select(Version.pk, EvaluationMetric.namespace).select_from(Version)
    query = query.join(Adapter, Adapter.pk == Version.adapter_pk)
    query = query.join(EvaluationMetric, scored_by(session, tree, who, scores_of))
    for pk, namespace in session.execute(query.where(Version.pk.in_([row.pk for row in rows])).distinct()):
        made.setdefault(pk, []).append(namespace)
    return made


def _briefs(
    session: Session, pks: Sequence[int], tree: Node, who: Principal, scores_of: str | None
) -> dict[int, VersionBrief]:
    """Return versions as sent over the API, by key; they and what belongs to them is read in four queries."""
    details = select(*_COLUMNS).join(Adapter, Adapter.pk == Version.adapter_pk).where(Version.pk.in_(pks))
    by_pk = {row.pk: row for row in session.execute(details)}
    rows = [by_pk[pk] for pk in pks]
    scored = _scores_of(session, tree, rows, who, scores_of)
    made = select(Origin.version_pk, Origin.metrics).where(Origin.pk.in_(first_origins(pks)))
    metrics: dict[int, dict[str, float]] = dict(session.execute(made).all())
    aliases = aliases_of(session, pks)
    over = select(BaseModelRow.pk, BaseModelRow.fingerprint)
    bases = session.execute(over.where(BaseModelRow.pk.in_({row.base_pk for row in rows})))
    fingerprints = {base.pk: base.fingerprint for base in bases}
    found = {}
    for row in rows:
        lora = table(row.lora)
        size = {"rank": row.rank, "alpha": lora.get("alpha"), "target_modules": lora.get("target_modules")}
        brief = row._asdict() | {
            "ref": f"{row.adapter}@{f'sha256:{row.digest}' if row.number is None else f'v{row.number}'}",
            "aliases": aliases.get(row.pk, []),
            "tags": table(row.tags),
            "base": BaseName(id=row.base_id, revision=row.base_revision, fingerprint=fingerprints[row.base_pk]),
            "lora": size,
            "metrics": table(metrics.get(row.pk)),
            "scores_of": sorted(scored.get(row.pk, [])),
        }
        if (readable_brief := readable(VersionBrief, brief)) is not None:
            found[row.pk] = readable_brief
    return found
