"""How many versions of an adapter were tried on rows, as far as it is known now: nothing is compared for it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.promotion.models import SharedRows
from registry.promotion.shared_rows import MOST_SHARE
from registry.promotion.tries import count_tries, tried_of


def known_tries(session: Session, adapter: str, datasets: Collection[str]) -> dict[str, int]:
    """Return how many different bytes of an adapter were tried on the rows of each of these datasets, or of others that are
    known to share more than `MOST_SHARE` of its rows.
    """
    tried = {one.dataset for one in tried_of(session, adapter)}
    counting = defaultdict(set, {dataset: {dataset} for dataset in datasets})
    shared = select(SharedRows.dataset_digest, SharedRows.other_digest).where(
        SharedRows.dataset_digest.in_(sorted(datasets)), SharedRows.shared > MOST_SHARE * SharedRows.rows
    )
    for dataset, other in session.execute(shared):
        if other in tried:
            counting[dataset].add(other)
    return {dataset: count_tries(session, adapter, counting[dataset]) for dataset in datasets}
