"""How many versions of an adapter were tried on rows, as far as it is known now: nothing is compared for it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.promotion.models import SharedRows
from registry.promotion.shared_rows import SharedCount
from registry.promotion.tries import count_tries, tried_of


def known_tries(session: Session, adapter: str, datasets: Mapping[str, int | None]) -> dict[str, int]:
    """Return how many different bytes of an adapter were tried on the rows of each of these datasets, or of others that are
    known to share more than `MOST_SHARE` of its rows; only of so many first rows, where it has a number.
    """
    tried = {one.dataset for one in tried_of(session, adapter)}
    counting = defaultdict(set, {dataset: {dataset} for dataset in datasets})
    shared = select(SharedRows.dataset_digest, SharedRows.other_digest, SharedRows.rows, SharedRows.shared).where(
        SharedRows.dataset_digest.in_(sorted(datasets)), SharedRows.shared > 0
    )
    for dataset, other, rows, count in session.execute(shared):
        if other in tried and SharedCount(rows, count).of_first(datasets[dataset]).is_much:
            counting[dataset].add(other)
    return {dataset: count_tries(session, adapter, counting[dataset]) for dataset in datasets}
