"""What the page of a job does: cancel it, and submit it again."""

from __future__ import annotations

from typing import Annotated

from fastapi import Request
from fastapi.responses import Response
from pydantic import Field

from registry.http.paths import PAGES
from registry.http.routes import answered
from registry.jobs.views import JobId, JobsDep
from registry.web.forms import FormFields
from registry.web.pages import Visitor, form_of, moved, pages, pressed
from registry.web.rendering import link

router = pages()


class _RetryForm(FormFields):
    #: The same for a form that is sent twice.
    key: Annotated[str, Field(min_length=8, max_length=64)]
    #: "1" for a training that is run again as it is advised.
    advice: str = ""


@router.post(f"{PAGES}jobs/{{job_id}}/cancel")
async def cancel_job_here(request: Request, job_id: JobId, jobs: JobsDep, who: Visitor) -> Response:
    """Cancel a job; a cancelled one stays as it is."""
    return await pressed(request, jobs.cancel, "jobs", job_id, who=who)


@router.post(f"{PAGES}jobs/{{job_id}}/retry")
async def retry_job_here(request: Request, job_id: JobId, jobs: JobsDep, who: Visitor) -> Response:
    """Submit a job again, and show the new one."""
    form = form_of(request, _RetryForm)
    new = await answered(jobs.retry, job_id, advice=form.advice == "1", who=who, idempotency_key=f"page:{form.key}")
    return moved(link("jobs", new.id))
