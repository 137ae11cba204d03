"""Jobs: what they need, attempts, checkpoints, counters; workers' queues.

Jobs of the previous release wait in the queue of their kind and fit every worker, as before.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_COLUMNS = ("queue", "needs_device", "needs_memory_bytes", "timeout_s", "not_before_s", "failures", "retry_of")


def upgrade() -> None:
    """Add tables and columns; an attempt that runs now gets its row when it ends or is lost."""
    op.add_column("jobs", sa.Column("queue", sa.String(10), nullable=False, server_default="gpu"))
    op.add_column("jobs", sa.Column("needs_device", sa.String(10), nullable=False, server_default="any"))
    op.add_column("jobs", sa.Column("needs_memory_bytes", sa.BigInteger))
    op.add_column("jobs", sa.Column("timeout_s", sa.Float))
    op.add_column("jobs", sa.Column("not_before_s", sa.Float))
    op.add_column("jobs", sa.Column("failures", sa.Integer, nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("retry_of", sa.String(32)))
    op.execute("UPDATE jobs SET queue = 'cpu' WHERE kind = 'merge'")
    op.drop_index("ix_jobs_state_priority", table_name="jobs")
    op.create_index("ix_jobs_state_priority_created_at", "jobs", ["state", "priority", "created_at"])
    op.create_table(
        "job_attempts",
        sa.Column("job_id", sa.String(32), sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("attempt", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("worker", sa.String(200), nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("reason", sa.String(40)),
        sa.Column("message", sa.Text),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
    )
    op.create_table(
        "job_checkpoints",
        sa.Column("job_id", sa.String(32), sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("step", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("total", sa.Integer, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("manifest_digest", sa.String(64), sa.ForeignKey("manifests.digest"), nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("report", sa.JSON, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("kept", sa.Boolean, nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True)),
    )
    op.create_index("ix_job_checkpoints_manifest_digest", "job_checkpoints", ["manifest_digest"])
    op.create_index("ix_job_checkpoints_expires_at", "job_checkpoints", ["expires_at"])
    op.create_table(
        "job_counters",
        sa.Column("name", sa.String(60), primary_key=True),
        sa.Column("labels", sa.String(200), primary_key=True),
        sa.Column("value", sa.Float, nullable=False),
    )
    op.add_column("workers", sa.Column("queues", sa.JSON, nullable=False, server_default='["gpu", "cpu"]'))
    op.add_column("workers", sa.Column("draining", sa.Boolean, nullable=False, server_default=sa.false()))


def downgrade() -> None:
    """Checkpoints are removed: the previous release would not know that their files are needed."""
    op.drop_column("workers", "draining")
    op.drop_column("workers", "queues")
    op.drop_table("job_counters")
    op.drop_table("job_checkpoints")
    op.drop_table("job_attempts")
    op.drop_index("ix_jobs_state_priority_created_at", table_name="jobs")
    op.create_index("ix_jobs_state_priority", "jobs", ["state", "priority"])
    for column in _COLUMNS:
        op.drop_column("jobs", column)
