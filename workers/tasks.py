"""What a message starts."""

from __future__ import annotations

from workers import service
from workers.celery_app import app


@app.task(name="adapterctl.work")  # type: ignore[untyped-decorator]
def work(hint: str) -> None:
    """Work off what there is, beginning with the hinted job."""
    service.drain(hint)
