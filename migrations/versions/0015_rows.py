"""The scores of an evaluation by row: the digest of their file, its size, and how much such files take in a namespace.

Records of the previous release have none, nor do those that one of its servers makes while it is replaced.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns."""
    op.add_column("evaluations", sa.Column("spec_digest", sa.String(64)))
    op.add_column("evaluations", sa.Column("rows_digest", sa.String(64)))
    op.create_index("ix_evaluations_rows_digest", "evaluations", ["rows_digest"])
    op.add_column("evaluations", sa.Column("rows_size_bytes", sa.BigInteger))
    op.add_column("evaluations", sa.Column("rows_removed_at", sa.DateTime(timezone=True)))
    op.add_column("usage", sa.Column("evaluations_bytes", sa.BigInteger, nullable=False, server_default="0"))


def downgrade() -> None:
    """Remove them; the next collection removes the files."""
    op.drop_column("usage", "evaluations_bytes")
    op.drop_column("evaluations", "rows_removed_at")
    op.drop_column("evaluations", "rows_size_bytes")
    op.drop_index("ix_evaluations_rows_digest", table_name="evaluations")
    op.drop_column("evaluations", "rows_digest")
    op.drop_column("evaluations", "spec_digest")
