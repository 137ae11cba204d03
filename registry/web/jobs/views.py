"""The list of jobs, as it is and as it changes."""

from __future__ import annotations

import secrets
from typing import Annotated, Any

from fastapi import Query, Request
from fastapi.responses import Response

from registry.db.paging import Cursor
from registry.http.paths import PAGES
from registry.http.routes import answered, service
from registry.jobs.kinds.known import KINDS
from registry.jobs.lines import JobFilter, JobLines
from registry.jobs.views import JobId
from registry.web.jobs.listed import Listed, place_of
from registry.web.jobs.service import JobPages
from registry.web.jobs.stream import cursor_of, feed_for, stream
from registry.web.pages import Visitor, page, pages
from sdk.schemas.jobs import JobState

router = pages()

#: How many jobs are on a page.
_ROWS = 50

LinesDep = Annotated[JobLines, service(JobLines)]
JobPagesDep = Annotated[JobPages, service(JobPages)]

#: Of another release, too, whose jobs may be in the list.
Kind = Annotated[str | None, Query(pattern=r"^[a-z_]{0,20}$")]
About = Annotated[str | None, Query(max_length=300)]


@router.get(f"{PAGES}jobs")
async def show_jobs(
    request: Request,
    lines: LinesDep,
    who: Visitor,
    state: str = "",
    kind: Kind = None,
    about: About = None,
    cursor: Cursor = None,
) -> Response:
    """Show the jobs that the reader may see, newest first."""
    wanted = _filter(state, kind, about)
    found = await answered(lines.page, wanted=wanted, who=who, cursor=cursor, limit=_ROWS)
    given: dict[str, Any] = {"state": wanted.state, "kind": wanted.kind, "about": wanted.subject}
    return page(
        request,
        "jobs/list.html",
        jobs=found.items,
        next=found.next,
        wanted=wanted,
        given=given,
        cursor=cursor,
        states=[each.value for each in JobState],
        kinds=sorted(KINDS),
        after=cursor_of(found.newest, who),
        down_to=place_of(found.items[-1]) if found.next and found.items else None,
        most=_ROWS,
    )


@router.get(f"{PAGES}jobs/live")
async def stream_jobs(
    request: Request,
    who: Visitor,
    after: Annotated[str, Query(max_length=100)],
    shown: Annotated[str, Query(max_length=4000)] = "",
    state: str = "",
    kind: Kind = None,
    about: About = None,
    down_to: Annotated[str | None, Query(max_length=200)] = None,
    adds: bool = False,
) -> Response:
    """Send what happens to the jobs of a page of the list, and, on the first one, new ones."""
    listed = Listed.of(_filter(state, kind, about), shown.split(","), down_to, adds=adds, most=_ROWS)
    return stream(request, feed_for(request), who, after, listed.shows, listed.written)


@router.get(f"{PAGES}jobs/{{job_id}}")
async def show_job(request: Request, job_id: JobId, job_pages: JobPagesDep, who: Visitor) -> Response:
    """Show a job: how far it is, its curve, what it said, its attempts and what may be done."""
    shown = await answered(job_pages.read, job_id, who=who)
    return page(
        request,
        "jobs/job.html",
        shown=shown,
        job=shown.view,
        line=shown.line,
        after=cursor_of(shown.newest, who),
        may_write=who.may("write", shown.line.namespace),
        # A form that is sent twice submits one job.
        key=secrets.token_hex(16),
    )


@router.get(f"{PAGES}jobs/{{job_id}}/live")
async def stream_job(
    request: Request, job_id: JobId, who: Visitor, after: Annotated[str, Query(max_length=100)]
) -> Response:
    """Tell the page of a job when there is more to show."""
    return stream(request, feed_for(request), who, after, lambda line: line.id == job_id, None)


def _filter(state: str, kind: str | None, about: str | None) -> JobFilter:
    """What a form without a choice sends is empty."""
    return JobFilter(state=state or None, kind=kind or None, subject=(about or "").strip() or None)
