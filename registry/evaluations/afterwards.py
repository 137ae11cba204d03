"""What is done with scores after they were recorded, while nobody waits: one thing at a time in a process."""

from __future__ import annotations

import threading
from collections.abc import Callable

from registry.pools import Pool
from registry.rows.reading_limits import MOST_HELD_BYTES

POOL = Pool(
    "rows of recorded scores",
    waits="scores whose rows are compared with training rows, and picked for pages, after they were recorded; nobody waits for them",
    at_once="1",
    item="2 GB of rows for each dataset that a target was trained on; one file of scores, one of another evaluation, and their dataset",
    share="by turns: one of each after another, 100 before it looks for new ones",
    most_bytes=MOST_HELD_BYTES,
)
_one = threading.Lock()


def one_at_a_time(work: Callable[[], object]) -> Callable[[], object]:
    """Return a function that does some work once nothing else of this is done."""

    def alone() -> object:
        with _one:
            return work()

    return alone
