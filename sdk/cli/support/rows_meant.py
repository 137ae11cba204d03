"""Which rows a job got if the command didn't name a file: a mistyped path may be the name of other rows."""

from __future__ import annotations

import os
from typing import Any

from sdk.cli.support.output import plain, say
from sdk.config import user_path
from sdk.schemas.jobs import JobView


def say_rows(view: JobView, **given: Any) -> None:
    """Say which registered dataset was used for each text that isn't a file, from the job's own field, such as `data`."""
    if isinstance(given.get("data"), (list, dict)):
        # Several datasets, or a list of one.
        several = list(given.pop("data"))
        sources = view.request.get("sources") or [view.request]
        for text, source in zip(several, sources, strict=True):
            _say("data", text, source.get("data"), source.get("data_name"))
    for field, text in given.items():
        _say(field, text, view.request.get(field), view.request.get(f"{field}_name"))


def _say(field: str, text: Any, digest: Any, name: Any) -> None:
    if isinstance(text, str) and isinstance(digest, str) and not os.path.isfile(user_path(text)):  # noqa: PTH113
        say(f"{field} is the registered dataset {plain(str(name or digest[:12]))}")
