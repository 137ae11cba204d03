"""Versions: which part of a lineage was only stated by whoever made the version. For existing versions it is not
known.
"""

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
    """Remove it."""
    op.drop_column("version_origins", "reported")
