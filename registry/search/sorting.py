"""The orders in which versions are found: by columns, or by the last score of each on a dataset.

>>> scored_field("-eval[heldout.jsonl].loss").metric, scored_field("rank") is None
('loss', True)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, case, func
from sqlalchemy.orm import Session

from registry.catalog.models import Adapter, Version
from registry.errors import Invalid
from registry.principal import Principal
from registry.search.compile import last_score
from registry.search.fields import Field, FieldComparison
from registry.search.grammar import parse
from sdk.schemas.catalog import SORT_KEYS
from sdk.schemas.evaluation import better_is

_EXAMPLE = "eval[heldout.jsonl].loss"


@dataclass(frozen=True)
class SearchOrder:
    """An order in which versions are listed: by columns that together are unique."""

    columns: tuple[Any, ...]
    #: The values of those columns in a row, where the next page begins.
    position: Callable[[Row[Any]], tuple[Any, ...]]
    kinds: tuple[type, ...]
    descending: bool = False
    #: The score that it is by, as a column; None: it is by none.
    score: Any = None


#: Keys are given out in the order in which versions are made.
_BY_AGE = ((Version.pk,), lambda row: (row.pk,), (int,))
_BY_RANK = ((Version.rank, Version.pk), lambda row: (row.rank, row.pk), (int, int))
_ORDERS: dict[str, SearchOrder] = {
    "-created": SearchOrder(*_BY_AGE, descending=True),
    "created": SearchOrder(*_BY_AGE),
    "-rank": SearchOrder(*_BY_RANK, descending=True),
    "rank": SearchOrder(*_BY_RANK),
    # A quarantined version has no number.
    "name": SearchOrder(
        (Adapter.name, func.coalesce(Version.number, 0), Version.pk),
        lambda row: (row.adapter, row.number or 0, row.pk),
        (str, int, int),
    ),
}


def order_of(session: Session, sort: str, who: Principal, scores_of: str | None) -> SearchOrder:
    """Return the order that `sort` names. A score puts the best version first, and with "-" the worst; those without one come
    last either way, and of equal ones the newest first.

    Raises Invalid for what is not an order, NotFound if the scores of `scores_of` can't be read.
    """
    if (order := _ORDERS.get(sort)) is not None:
        return order
    field = scored_field(sort)
    if field is None:
        raise Invalid(
            f"sort can't be {sort[:80]!a}; use {', '.join(SORT_KEYS)}, or a score, such as {_EXAMPLE}", param="sort"
        )
    score = last_score(session, field, who, scores_of)
    # Of a scorer that does not say which is better, the lowest come first.
    sign = -1.0 if (better_is(field.metric) == "more") != sort.startswith("-") else 1.0
    return SearchOrder(
        (case((score.is_(None), 1), else_=0), func.coalesce(score * sign, 0.0), -Version.pk),
        lambda row: (int(row.score is None), 0.0 if row.score is None else row.score * sign, -row.pk),
        (int, float, int),
        score=score,
    )


def scored_field(sort: str) -> Field | None:
    """Return which score an order is by; None if it is not a score. Raises Invalid for a score that can't be read."""
    text = sort.removeprefix("-")
    if not text.startswith("eval["):
        return None
    try:
        tree = parse(f"{text} = 0")
    except Invalid:
        tree = None
    if not isinstance(tree, FieldComparison) or tree.field.word != "eval":
        raise Invalid(f"{sort[:80]!a} is not an order; write a score as in a filter: {_EXAMPLE}", param="sort")
    return tree.field
