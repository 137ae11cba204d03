"""What jobs are advised while they run."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column."""
    op.add_column("jobs", sa.Column("advice", sa.JSON))


def downgrade() -> None:
    """Remove it; what a training that succeeded is advised is in its result."""
    op.drop_column("jobs", "advice")
