"""Only what claims and new tokens have made is kept for their keys; answers of other requests are not."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Remove the answers, and what told them apart."""
    op.execute("DELETE FROM keyed_requests WHERE request_digest <> 'claim'")
    op.drop_index("ix_keyed_requests_long", table_name="keyed_requests")
    op.drop_column("keyed_requests", "is_long")
    op.drop_column("keyed_requests", "status")


def downgrade() -> None:
    """Bring the columns back; what is kept was answered with 200."""
    op.add_column("keyed_requests", sa.Column("status", sa.Integer))
    op.execute("UPDATE keyed_requests SET status = 200")
    op.add_column("keyed_requests", sa.Column("is_long", sa.Boolean, nullable=False, server_default=sa.false()))
    op.create_index(
        "ix_keyed_requests_long",
        "keyed_requests",
        ["owner", "created_at"],
        sqlite_where=sa.text("is_long = 1"),
        postgresql_where=sa.text("is_long"),
    )
