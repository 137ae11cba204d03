"""The catalogue, the page of an adapter, and its history."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query, Request
from fastapi.responses import Response

from registry.db.paging import Cursor
from registry.errors import Invalid
from registry.http.paths import PAGES
from registry.http.routes import answered, service
from registry.search.adapters import AdapterSearch, Catalogue
from registry.search.grammar import MAX_CHARS
from registry.web.adapters.service import AdapterPages
from registry.web.pages import Visitor, page, pages

router = pages()

#: How many adapters are on a page, and what a filter may ask for, as an example for those who type one.
_ROWS = 50
EXAMPLES = (
    "name ~ team/*",
    "alias = production and rank >= 8",
    "eval[heldout.jsonl].loss < 1.5",
    "tag[language] = python",
    "state = archived",
)

Name = Annotated[str, Query(max_length=200)]


@router.get(f"{PAGES}adapters")
async def show_catalogue(
    request: Request,
    search: Annotated[AdapterSearch, service(AdapterSearch)],
    who: Visitor,
    namespace: Annotated[str | None, Query(max_length=64)] = None,
    wanted: Annotated[str, Query(alias="filter", max_length=10 * MAX_CHARS)] = "",
    cursor: Cursor = None,
) -> Response:
    """Show the adapters that the reader may see, or those that a filter finds; what is wrong with one stands under it."""
    given = {"namespace": namespace or None, "wanted": wanted, "who": who, "cursor": cursor, "limit": _ROWS}
    message, found = None, Catalogue.nothing()
    try:
        found = await answered(search.find, **given)
    except Invalid as error:
        if not wanted.strip():
            raise
        message = error.message
    return page(
        request,
        "adapters/catalogue.html",
        found=found,
        namespace=namespace or None,
        wanted=wanted,
        message=message,
        examples=EXAMPLES,
        is_first=cursor is None,
    )


@router.get(f"{PAGES}history")
async def show_history(
    request: Request,
    shown: Annotated[AdapterPages, service(AdapterPages)],
    who: Visitor,
    adapter: Name,
    alias: Annotated[str | None, Query(max_length=64)] = None,
    cursor: Cursor = None,
) -> Response:
    """Show the moves of an adapter's aliases, newest first."""
    found = await answered(shown.history, adapter=adapter, alias=alias or None, who=who, cursor=cursor)
    return page(
        request, "adapters/history.html", adapter=adapter, alias=alias or None, moves=found.items, next=found.next
    )


# At the first, those whose second address is a version of another adapter's; see `link`.
@router.get(f"{PAGES}adapter/{{name:path}}")
@router.get(f"{PAGES}adapters/{{name:path}}")
async def show_adapter(
    request: Request,
    name: str,
    shown: Annotated[AdapterPages, service(AdapterPages)],
    who: Visitor,
    score: Annotated[str | None, Query(max_length=200)] = None,
    archived: bool = False,
    moved: Annotated[str | None, Query(max_length=64)] = None,
    again: bool = False,
    cursor: Cursor = None,
) -> Response:
    """Show an adapter: its aliases, its versions, and how their scores went."""
    found = await answered(
        shown.adapter, name=name, score=score, archived=archived, moved=moved, who=who, cursor=cursor
    )
    return page(
        request,
        "adapters/adapter.html",
        shown=found,
        archived=archived,
        is_first=cursor is None,
        again=again,
    )
