"""The runs of trackers to which jobs forward their points."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column."""
    op.add_column("jobs", sa.Column("runs", sa.JSON))


def downgrade() -> None:
    """Remove it; a training that goes on gets new runs."""
    op.drop_column("jobs", "runs")
