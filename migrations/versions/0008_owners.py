"""Owners: whose token submitted a job, claimed an attempt or runs a worker; until now only its name was stored.

Servers of the previous release continue to work: what they write has no owner, and is identified by its name as before.
A key that is sent to them and then to a server of this release still finds its job, but not the other way round.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_SAID = "name, device, memory_bytes, free_memory_bytes, cached_bases, shared_paths, version, seen_at, queues, draining"


def upgrade() -> None:
    """Existing rows get no owner, because names of tokens could be given twice."""
    op.add_column("jobs", sa.Column("owner", sa.String(120)))
    op.add_column("jobs", sa.Column("submit_key", sa.String(200)))
    op.create_index("uq_jobs_owner_submit_key", "jobs", ["owner", "submit_key"], unique=True)
    op.add_column("job_attempts", sa.Column("owner", sa.String(120)))
    _replace_workers(sa.Column("owner", sa.String(120), nullable=False, server_default=""), "FROM workers_before")


def downgrade() -> None:
    """Keys of this release are forgotten; among workers with the same name, the one that was heard from last stays."""
    newest = (
        "FROM workers_before w WHERE NOT EXISTS (SELECT 1 FROM workers_before o WHERE o.name = w.name "
        "AND (o.seen_at > w.seen_at OR (o.seen_at = w.seen_at AND o.owner > w.owner)))"
    )
    _replace_workers(None, newest)
    op.drop_column("job_attempts", "owner")
    op.drop_index("uq_jobs_owner_submit_key", table_name="jobs")
    op.drop_column("jobs", "submit_key")
    op.drop_column("jobs", "owner")


def _replace_workers(owner: sa.Column[str] | None, origin: str) -> None:
    """Create the table of workers again, because SQLite can't change a table's primary key, and copy its rows."""
    op.rename_table("workers", "workers_before")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER INDEX pk_workers RENAME TO pk_workers_before")
    op.create_table(
        "workers",
        *([] if owner is None else [owner]),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("device", sa.String(20), nullable=False),
        sa.Column("memory_bytes", sa.BigInteger, nullable=False),
        sa.Column("free_memory_bytes", sa.BigInteger, nullable=False),
        sa.Column("cached_bases", sa.JSON, nullable=False),
        sa.Column("shared_paths", sa.JSON, nullable=False),
        sa.Column("version", sa.String(40), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("queues", sa.JSON, nullable=False, server_default='["gpu", "cpu"]'),
        sa.Column("draining", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.PrimaryKeyConstraint(*([] if owner is None else ["owner"]), "name", name="pk_workers"),
    )
    op.execute(f"INSERT INTO workers ({_SAID}) SELECT {_SAID} {origin}")
    op.drop_table("workers_before")
