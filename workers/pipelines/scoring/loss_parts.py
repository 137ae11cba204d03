"""The loss of an example by its parts: on what its answers say, and on what ends them."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from workers.pipelines.data.examples import IGNORED, Example, learnt_ends


class LossParts(NamedTuple):
    """Sums in nats over supervised tokens; what is in neither part is reasoning and scaffold."""

    example: Example
    whole: float
    #: On contents and calls, and on how many tokens.
    content: float
    content_tokens: int
    #: On what comes after the contents; None if none of it is supervised.
    end: float | None


def loss_parts(batch: Iterable[tuple[Example, Sequence[float]]]) -> list[LossParts]:
    """Return the parts of the losses of examples, given with the loss of each of their supervised tokens."""
    return [_parts(example, nats) for example, nats in batch]


def _parts(example: Example, nats: Sequence[float]) -> LossParts:
    places = [place for place, label in enumerate(example.labels) if label != IGNORED]

    def within(runs: Iterable[tuple[int, int]]) -> list[float]:
        return [loss for first, last in runs for loss in nats[bisect_left(places, first) : bisect_left(places, last)]]

    content, end = within(example.contents), within(learnt_ends(example))
    return LossParts(example, math.fsum(nats), math.fsum(content), len(content), math.fsum(end) if end else None)
