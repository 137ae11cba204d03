"""The newest jobs of a namespace are a range of an index, however many jobs others have."""

from __future__ import annotations

from alembic import op

revision = "0030"
down_revision = "0029"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the index."""
    op.create_index("ix_jobs_namespace_created_at", "jobs", ["namespace", "created_at", "id"])


def downgrade() -> None:
    """Remove it."""
    op.drop_index("ix_jobs_namespace_created_at", "jobs")
