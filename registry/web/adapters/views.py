"""The catalogue."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query, Request
from fastapi.responses import Response

from registry.catalog.versions.service import Catalog
from registry.db.paging import Cursor
from registry.http.paths import PAGES
from registry.http.routes import answered, service
from registry.web.pages import Visitor, page, pages

router = pages()

#: How many adapters are on a page.
_ROWS = 50


@router.get(f"{PAGES}adapters")
async def show_catalogue(
    request: Request,
    catalog: Annotated[Catalog, service(Catalog)],
    who: Visitor,
    namespace: Annotated[str | None, Query(max_length=64)] = None,
    cursor: Cursor = None,
) -> Response:
    """Show the adapters that the reader may see."""
    found = await answered(catalog.adapters, namespace=namespace, prefix="", who=who, cursor=cursor, limit=_ROWS)
    return page(request, "adapters/catalogue.html", adapters=found.items, next=found.next, namespace=namespace)
