"""Which of several versions and bare bases scores better; the registry resamples the rows that it keeps."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sdk.api import evaluations
from sdk.api.transport import Transport
from sdk.config import user_path
from sdk.errors import InvalidInput, NotFound
from sdk.names import parse_ref
from sdk.pulling.transfer import hash_file
from sdk.pushing.given_base import require_one
from sdk.schemas.comparison import MOST_TARGETS, Comparison
from sdk.submitting.given_data import means_file


def compare_scores(
    transport: Transport,
    refs: Sequence[str],
    *,
    metric: str | None,
    data: str | Path | None,
    by: str | None,
    examples: int,
    detect: float | None,
    scores_of: str | None,
    base_namespace: str | None,
    published: bool | None,
) -> Comparison:
    """Compare the scores of targets in pairs; see `Client.compare`."""
    if isinstance(refs, str) or not 2 <= len(refs) <= MOST_TARGETS:
        raise InvalidInput(
            f"a comparison is of 2 to {MOST_TARGETS} versions or bases; name them all: adapterctl compare REF REF",
            param="refs",
        )
    for name, given in (("metric", metric), ("data", data), ("by", by), ("scores_of", scores_of)):
        # For example from an unset shell variable; it is not meant as the loss, or as no groups.
        if given == "":
            raise InvalidInput(f"{name} is empty; give one, or leave it out", param=name)
    targets = [ref if ref.startswith("base:") else str(parse_ref(ref)) for ref in refs]
    require_one(base_namespace, published)
    asked: dict[str, Any] = {"metric": metric, "by": by, "examples": examples, "detect": detect, "scores_of": scores_of}
    asked |= {"base_namespace": base_namespace, "published": bool(published)}
    if data is None or not means_file(data):
        return evaluations.compare(transport, targets, data=None if data is None else str(data), **asked)
    path = user_path(data)
    # Reading a pipe or a device may never end.
    if not os.path.isfile(path):  # noqa: PTH113 - a text that no path can be is none here
        raise InvalidInput(f"{str(data)[:200]!a} can't be read, since it is not a file; check the path", param="data")
    try:
        digest, _ = hash_file(path)
    except OSError as error:
        raise InvalidInput(f"{data} can't be read ({error.strerror}); check the path", param="data") from None
    try:
        return evaluations.compare(transport, targets, data=digest, **asked)
    except NotFound as error:
        if error.param != "data":
            raise
        raise NotFound(
            f"nothing was scored on the rows of {data}; run: adapterctl eval {' '.join(targets)} --data {data}",
            param="data",
        ) from None
