"""Which of several versions, and bare bases, scores better; the registry draws, from the rows that it keeps."""

from __future__ import annotations

from collections.abc import Sequence

from sdk.api import evaluations
from sdk.api.transport import Transport
from sdk.errors import InvalidInput
from sdk.names import parse_ref
from sdk.schemas.comparison import MOST_TARGETS, Comparison


def compare_scores(
    transport: Transport,
    refs: Sequence[str],
    *,
    metric: str | None,
    data: str | None,
    by: str | None,
    examples: int,
    detect: float | None,
) -> Comparison:
    """Compare the scores of targets, each with each; see `Client.compare`."""
    if isinstance(refs, str) or not 2 <= len(refs) <= MOST_TARGETS:
        raise InvalidInput(
            f"a comparison is of 2 to {MOST_TARGETS} versions or bases; name them all: adapterctl compare REF REF",
            param="refs",
        )
    targets = [ref if ref.startswith("base:") else str(parse_ref(ref)) for ref in refs]
    return evaluations.compare(transport, targets, metric=metric, data=data, by=by, examples=examples, detect=detect)
