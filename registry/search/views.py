"""Search."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query

from registry.evaluations.standing import ScoresOf
from registry.http.routes import PageOf, Reader, room, service
from registry.search.fields import FIELDS
from registry.search.grammar import MAX_CHARS, MAX_COMPARISONS, MAX_NESTING
from registry.search.service import Search
from sdk.schemas.catalog import SORT_KEYS, VersionBrief
from sdk.schemas.wire import Page

router = room("/search", "search")

SearchDep = Annotated[Search, service(Search)]

_FILTER = f"""Comparisons joined by `and`, `or`, `not` and brackets; left out or empty, every ready version is found.

A comparison is a field, an operator (`=` `!=` `<` `<=` `>` `>=`, `~` for patterns with `*`, `in (…, …)`) and a value,
which needs double quotes if it has other characters than letters, digits and `._/:@+-`. At most {MAX_CHARS:,}
characters, {MAX_COMPARISONS} comparisons and {MAX_NESTING} levels.

Fields: {"; ".join(f"`{rule.shown}`, {rule.takes}" for rule in FIELDS.values())}.

Only ready versions are found unless the filter mentions `state`."""

_SORT = f"""One of {", ".join(f"`{key}`" for key in SORT_KEYS)}, where a leading "-" puts the newest or highest first; or a score as in
a filter, `eval[DATASET].METRIC`: the best first, by the direction of the metric, and with a leading "-" the worst. Each
version counts with its newest such score; those without one come last."""
_SORTS: dict[str, Any] = {
    "newest first": {"value": "-created"},
    "lowest loss first": {"value": "eval[heldout.jsonl].loss"},
}

#: Examples by what a reader of the OpenAPI document wants to find.
_EXAMPLES: dict[str, Any] = {
    "base and rank": {"value": "base = SmolLM2-135M-Instruct and rank in (8, 16)"},
    "what runs in production": {"value": "alias = production and namespace = team"},
    "better than a score": {"value": "eval[heldout.jsonl].loss < 1.5 and not method = lora"},
    "what a dataset went into": {"value": 'dataset = "train set.jsonl" and state in (ready, archived)'},
    "by tag, this spring": {"value": "tag[language] ~ py* and created >= 2026-03-01 and created < 2026-06-01"},
}


@router.get("")
def search_versions(
    search: SearchDep,
    who: Reader,
    page: PageOf,
    wanted: Annotated[str, Query(alias="filter", description=_FILTER, openapi_examples=_EXAMPLES)] = "",
    sort: Annotated[str, Query(max_length=1000, description=_SORT, openapi_examples=_SORTS)] = "-created",
    scores_of: ScoresOf = None,
) -> Page[VersionBrief]:
    """Versions that match a filter."""
    return search.search(wanted=wanted, sort=sort, scores_of=scores_of, who=who, **page)
