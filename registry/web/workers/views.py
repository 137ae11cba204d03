"""The page of workers and queues."""

from __future__ import annotations

from fastapi import Request
from fastapi.responses import Response

from registry.http.paths import PAGES
from registry.http.routes import answered
from registry.jobs.views import WorkersDep
from registry.web.pages import Visitor, page, pages

router = pages()


@router.get(f"{PAGES}workers")
async def show_workers(request: Request, workers: WorkersDep, who: Visitor) -> Response:
    """Show the workers that work where the reader reads, and how busy each queue is."""
    queues = await answered(workers.capacity, who=who)
    found = await answered(workers.list, who=who)
    return page(request, "workers/list.html", workers=found, queues=queues)
