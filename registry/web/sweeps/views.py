"""The list of sweeps, the page of one, and what may be done with it."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Path, Query, Request
from fastapi.responses import Response

from registry.db.paging import Cursor
from registry.http.paths import PAGES
from registry.http.routes import answered, service
from registry.jobs.lines import JobLines
from registry.sweeps.service import Sweeps
from registry.web.jobs.stream import cursor_of, feed_for, stream
from registry.web.pages import Visitor, long_page, page, pages, pressed
from registry.web.sweeps.shown import shown_sweep, varies
from sdk.schemas.sweeps import SweepState

router = pages()

#: How many sweeps are on a page.
_ROWS = 50
#: The page of one with more members is written among other long work.
_FEW = 100

SweepsDep = Annotated[Sweeps, service(Sweeps)]
SweepId = Annotated[str, Path(max_length=64)]


@router.get(f"{PAGES}sweeps")
async def show_sweeps(
    request: Request, sweeps: SweepsDep, who: Visitor, state: str = "", cursor: Cursor = None
) -> Response:
    """Show the sweeps that the reader may see, newest first."""
    found = await answered(sweeps.list, state=state[:20] or None, who=who, cursor=cursor, limit=_ROWS)
    return page(
        request,
        "sweeps/list.html",
        sweeps=[(view, varies(view)) for view in found.items],
        next=found.next,
        cursor=cursor,
        state=state[:20] or None,
        states=[each.value for each in SweepState],
    )


@router.get(f"{PAGES}sweeps/{{sweep_id}}")
async def show_sweep(
    request: Request,
    sweep_id: SweepId,
    sweeps: SweepsDep,
    lines: Annotated[JobLines, service(JobLines)],
    who: Visitor,
) -> Response:
    """Show a sweep: each setting with its score and what it costs, the winner, and its members."""
    newest = await answered(lines.newest)
    view, namespace = await answered(sweeps.shown, sweep_id, who=who)

    def shown() -> dict[str, Any]:
        return {
            "sweep": view,
            "shown": shown_sweep(view),
            "after": cursor_of(newest, who),
            "may_write": who.may("write", namespace),
        }

    return await long_page(request, "sweeps/sweep.html", shown, is_long=len(view.members) > _FEW)


@router.get(f"{PAGES}sweeps/{{sweep_id}}/live")
async def stream_sweep(
    request: Request, sweep_id: SweepId, who: Visitor, after: Annotated[str, Query(max_length=100)]
) -> Response:
    """Tell the page of a sweep when there is more to show."""
    return stream(request, feed_for(request), who, after, lambda line: line.sweep == sweep_id, None)


@router.post(f"{PAGES}sweeps/{{sweep_id}}/pause")
async def pause_sweep_here(request: Request, sweep_id: SweepId, sweeps: SweepsDep, who: Visitor) -> Response:
    """Begin no further members."""
    return await pressed(request, sweeps.pause, "sweeps", sweep_id, who=who)


@router.post(f"{PAGES}sweeps/{{sweep_id}}/go")
async def let_sweep_go_here(request: Request, sweep_id: SweepId, sweeps: SweepsDep, who: Visitor) -> Response:
    """Let a paused sweep go on."""
    return await pressed(request, sweeps.go, "sweeps", sweep_id, who=who)


@router.post(f"{PAGES}sweeps/{{sweep_id}}/cancel")
async def cancel_sweep_here(request: Request, sweep_id: SweepId, sweeps: SweepsDep, who: Visitor) -> Response:
    """Cancel a sweep and its members."""
    return await pressed(request, sweeps.cancel, "sweeps", sweep_id, who=who)
