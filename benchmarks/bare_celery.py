"""Celery with its own defaults and a task that does nothing: the peer of `noop_worker.py`.

    BARE_BROKER_URL=… BARE_DONE=FILE celery -A bare_celery worker

Each task appends when it was sent and when it was done to a file, in seconds since 1970.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from celery import Celery

NAME = "bare.nothing"

app = Celery("bare", broker=os.environ.get("BARE_BROKER_URL"))
app.conf.task_ignore_result = True


@app.task(name=NAME)  # type: ignore[untyped-decorator]
def nothing(sent_s: float) -> None:
    """Say that it was here."""
    with Path(os.environ["BARE_DONE"]).open("a") as file:
        file.write(f"{sent_s} {time.time()}\n")
