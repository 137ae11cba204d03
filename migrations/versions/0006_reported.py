"""Versions: which part of a lineage is the word of whoever made the version. Nobody knows it of those that are there."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add a column."""
    op.add_column("version_origins", sa.Column("reported", sa.JSON))


def downgrade() -> None:
    """Take it away."""
    op.drop_column("version_origins", "reported")
