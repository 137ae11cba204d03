"""The page of a version, and the table of its norms."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from fastapi import Query, Request
from fastapi.responses import Response

from registry.artifacts.long_facts import WAIT_S, TurnNeededError
from registry.errors import NotFound
from registry.http.paths import PAGES
from registry.http.routes import answered, apart, service
from registry.web.pages import Visitor, long_page, moved, page, pages
from registry.web.rendering import link, page_of_ref
from registry.web.versions.heat_map import MOST_TITLED, STEPS, heat_map
from registry.web.versions.lineage_map import HEIGHT, WIDTH
from registry.web.versions.service import MOST_MODULES, VersionPage, VersionPages
from sdk.schemas.scores import briefly

router = pages()

#: The table of more norms is written among other long work.
_FEW = 1000

PagesDep = Annotated[VersionPages, service(VersionPages)]


@router.get(f"{PAGES}adapters/{{name:path}}/v{{number:version}}")
async def show_version(request: Request, name: str, number: int, versions: PagesDep, who: Visitor) -> Response:
    """Show a version; or lead to the adapter whose name looks like it, if there is no such version."""
    try:
        return _shown(request, await answered(versions.show, f"{name}@v{number}", who=who))
    except NotFound:
        called = request.url.path.removeprefix(f"{PAGES}adapters/")
        if "/" in name or not await answered(versions.is_adapter, called, who=who):
            raise
        return moved(link("adapters", called))


@router.get(f"{PAGES}adapters/{{name:path}}/v{{number:version}}/norms")
async def show_norms(request: Request, name: str, number: int, versions: PagesDep, who: Visitor) -> Response:
    """Show the norm of each module's update."""
    ref = f"{name}@v{number}"
    try:
        found = await answered(versions.norms, ref, wait_s=0, who=who)
    except TurnNeededError:
        # It may wait for as long as a push reads a file, so it waits among pushes.
        found = await apart(partial(versions.norms, ref, wait_s=WAIT_S, who=who))
    norms = found.norms or {}

    def shown() -> dict[str, Any]:
        return {
            "ref": ref,
            "back": page_of_ref(ref),
            "rows": list(norms.items())[:MOST_MODULES],
            "all_modules": len(norms),
            "replaced": found.replaced[:MOST_MODULES],
            "heat": heat_map(norms) if norms else None,
            "most_titled": MOST_TITLED,
            "steps": STEPS,
        }

    return await long_page(request, "versions/norms.html", shown, is_long=len(norms) > _FEW)


@router.get(f"{PAGES}version")
async def show_ref(
    request: Request, ref: Annotated[str, Query(max_length=1000)], versions: PagesDep, who: Visitor
) -> Response:
    """Show what a ref names now: at its own address, if it has a number."""
    found = await answered(versions.show, ref, who=who)
    if found.view.number is not None:
        return moved(page_of_ref(found.view.ref))
    return _shown(request, found)


def _shown(request: Request, found: VersionPage) -> Response:
    return page(
        request,
        "versions/version.html",
        shown=found,
        view=found.view,
        box={"width": WIDTH, "height": HEIGHT},
        briefly=briefly,
        most_titled=MOST_TITLED,
        steps=STEPS,
    )
