"""Each server process reports its figures to all."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0031"
down_revision = "0030"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "server_processes",
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("seen_at_s", sa.Float(), nullable=False),
        sa.Column("figures", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_server_processes"),
    )


def downgrade() -> None:
    """Remove it."""
    op.drop_table("server_processes")
