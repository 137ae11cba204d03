"""A job as a notebook shows it: what the registry last said."""

from __future__ import annotations

from sdk.formats.html_tables import facts, page, sentence
from sdk.schemas.events import Progress
from sdk.schemas.jobs import JobView


def job_page(view: JobView) -> str:
    """Return a job as a table of what is known of it."""
    result = view.result or {}
    made = result.get("ref") if isinstance(result.get("ref"), str) else None
    named: list[tuple[str, object]] = [
        ("id", view.id),
        ("state", str(view.state)),
        ("made", made),
        ("reason", view.reason),
        ("message", view.message),
        ("progress", how_far(view)),
        ("waits", view.waits),
        ("advice", [one.message for one in view.advice]),
        ("worker", view.worker),
        ("attempt", view.attempt or None),
        ("created", view.created_at),
        ("started", view.started_at),
        ("finished", view.finished_at),
    ]
    title = f"{view.kind} of {view.subject}: {view.state}"
    late = "" if view.state.is_final else sentence("This is the registry's last answer; job.state asks again.")
    return page(facts(title, [(name, value) for name, value in named if value not in (None, "", [])]), late)


def how_far(view: JobView) -> str | None:
    """Return how far a running job was, as of what the registry last said; None for any other."""
    return None if view.progress is None or view.state.is_final else words_of(view.progress)


def words_of(progress: Progress) -> str:
    """Return in words how far a phase is.

    >>> words_of(Progress(phase="train", step=3, total=10, loss=1.25))
    'train 3/10 steps, loss 1.250'
    """
    count = "" if progress.step is None else f" {progress.step}/{progress.total or '?'} {progress.unit}"
    if progress.step is not None and progress.unit == "bytes":
        share = 100 * progress.step / progress.total if progress.total else None
        count = "" if share is None else f" {share:.0f} %"
    loss = "" if progress.loss is None else f", loss {progress.loss:.3f}"
    left = "" if progress.eta_s is None else f", {progress.eta_s:.0f} s left"
    return f"{progress.phase}{count}{loss}{left}"
