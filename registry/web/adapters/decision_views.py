"""The page of a decision."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Request
from fastapi.responses import Response

from registry.http.paths import PAGES
from registry.http.routes import answered, service
from registry.promotion.decisions import Decisions
from registry.web.pages import Visitor, page, pages

router = pages()


@router.get(f"{PAGES}decisions/{{ident}}")
async def show_decision(
    request: Request,
    ident: Annotated[str, Path(max_length=64)],
    decisions: Annotated[Decisions, service(Decisions)],
    who: Visitor,
) -> Response:
    """Show what was found when an alias was to move."""
    return page(request, "adapters/decision.html", decision=await answered(decisions.show, ident, who=who))
