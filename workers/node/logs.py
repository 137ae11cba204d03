"""Logging of worker processes: times, levels, names, and the attempt that a line belongs to, as text or as JSON."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from workers.settings import WorkerSettings

_TEXT = "%(asctime)s %(levelname)s %(name)s %(label)s%(message)s"


class _Present(logging.Filter):
    """Adds the attempt that this process works on: there is one at a time, whichever thread logs."""

    job: str | None = None
    attempt: int | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        # Messages of the libraries that listen to the broker don't belong to an attempt.
        own = not record.name.startswith(("celery", "kombu"))
        job, attempt = (self.job, self.attempt) if own else (None, None)
        record.job, record.attempt = job, attempt
        record.label = "" if job is None else f"job={job} attempt={attempt} "
        return True


_present = _Present()


class JsonFormatter(logging.Formatter):
    """One JSON document per line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if getattr(record, "job", None) is not None:
            line |= {"job": record.__dict__["job"], "attempt": record.__dict__["attempt"]}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def configure(settings: WorkerSettings) -> None:
    """Log to standard error as the settings say."""
    handler = logging.StreamHandler()
    handler.addFilter(_present)
    handler.setFormatter(JsonFormatter() if settings.log_format == "json" else logging.Formatter(_TEXT))
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)
    # A line for every request would bury the worker's own messages.
    logging.getLogger("httpx").setLevel(logging.WARNING)


@contextmanager
def about(job: str, attempt: int) -> Iterator[None]:
    """Make every line of the block, in all threads, say which attempt it belongs to."""
    _present.job, _present.attempt = job, attempt
    try:
        yield
    finally:
        _present.job = _present.attempt = None
