"""Jobs: fair turns of namespaces, releases that a job needs, deadlines, an order of checkpoints; who sweeps.

Checkpoints are numbered in the order that they had.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_NEXT = "ix_jobs_next"


def upgrade() -> None:
    """Add columns, tables, and the index by which each namespace's next job is found."""
    op.add_column("jobs", sa.Column("needs_release", sa.Integer, nullable=False, server_default="0"))
    op.add_column("job_attempts", sa.Column("deadline_s", sa.Float))
    op.create_index(_NEXT, "jobs", ["state", "queue", "namespace", "priority", "created_at"])
    op.add_column("job_checkpoints", sa.Column("seq", sa.Integer, nullable=False, server_default="0"))
    op.create_index(
        "ix_job_checkpoints_kept",
        "job_checkpoints",
        ["job_id"],
        sqlite_where=sa.text("kept = 1"),
        postgresql_where=sa.text("kept"),
    )
    # A step is recorded once per job, so each row's number is the count of its job's rows that are not newer.
    op.execute(
        """
        UPDATE job_checkpoints SET seq = (
            SELECT count(*) FROM job_checkpoints AS earlier
            WHERE earlier.job_id = job_checkpoints.job_id AND (
                earlier.created_at < job_checkpoints.created_at
                OR (earlier.created_at = job_checkpoints.created_at AND earlier.step <= job_checkpoints.step)
            )
        )
        """
    )
    op.create_table(
        "job_turns",
        sa.Column("queue", sa.String(10), primary_key=True),
        sa.Column("namespace", sa.String(64), primary_key=True),
        sa.Column("served_at_s", sa.Float, nullable=False),
    )
    op.create_table(
        "job_sweepers",
        sa.Column("name", sa.String(200), primary_key=True),
        sa.Column("since_s", sa.Float, nullable=False),
        sa.Column("swept_at_s", sa.Float, nullable=False),
    )


def downgrade() -> None:
    """Remove them; waiting jobs are given out by priority and age again."""
    op.drop_table("job_sweepers")
    op.drop_table("job_turns")
    op.drop_index("ix_job_checkpoints_kept", table_name="job_checkpoints")
    op.drop_column("job_checkpoints", "seq")
    op.drop_index(_NEXT, table_name="jobs")
    op.drop_column("job_attempts", "deadline_s")
    op.drop_column("jobs", "needs_release")
