"""What a registry in a folder may have left to do when somebody comes back to it: asked in one statement, before the rooms are
imported that would do it. Most of the time there is nothing.
"""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import text

from registry.db.database import Database

#: States as in `jobs.lifecycle.UNFINISHED` and `sweeps.lifecycle.MOVING`. Policies are left for whose versions something
#: is done by itself, as in `promotion.automatic.candidates`; a day as in `removal.expiry`.
_LEFT = text(
    """
    SELECT EXISTS (SELECT 1 FROM jobs WHERE state IN ('queued', 'running'))
        OR EXISTS (SELECT 1 FROM sweeps WHERE state IN ('running', 'choosing'))
        OR EXISTS (
            SELECT 1 FROM promotion_policies
            WHERE json_extract(document, '$.evaluate') IS NOT NULL OR json_extract(document, '$.promote') IS NOT NULL
        ),
        NOT EXISTS (
            SELECT 1 FROM daily_work
            WHERE name = 'expiry' AND begun_at_s > (julianday('now') - 2440587.5) * 86400.0 - 86400.0
        )
    """
)


class LeftWork(NamedTuple):
    """What there may be to do."""

    #: For a runner.
    jobs: bool
    #: For the daily removal of what has expired.
    expiry: bool


def left_work(db: Database) -> LeftWork:
    """Look at a database of SQLite."""
    with db.read() as session:
        jobs, expiry = session.execute(_LEFT).one()
    return LeftWork(bool(jobs), bool(expiry))
