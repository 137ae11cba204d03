"""What the registry derives from the rows of datasets, and how many rows of an evaluation a target was trained on.

Datasets of the previous release have no signatures until some are needed, and its scores are checked by this one.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table, and add the column."""
    op.create_table(
        "dataset_signatures",
        sa.Column("digest", sa.String(64), sa.ForeignKey("datasets.digest", ondelete="CASCADE"), primary_key=True),
        sa.Column("reading", sa.String(64), primary_key=True),
        sa.Column("blob", sa.String(64), sa.ForeignKey("blobs.sha256"), nullable=True),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("refusal", sa.Text, nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("ix_dataset_signatures_blob", "dataset_signatures", ["blob"])
    op.add_column("evaluations", sa.Column("contamination", sa.JSON))
    unchecked = sa.text("contamination IS NULL")
    op.create_index(
        "ix_evaluations_unchecked",
        "evaluations",
        ["created_at"],
        sqlite_where=unchecked,
        postgresql_where=unchecked,
    )


def downgrade() -> None:
    """Remove them; the next collection removes the files."""
    op.drop_index("ix_evaluations_unchecked", table_name="evaluations")
    op.drop_column("evaluations", "contamination")
    op.drop_table("dataset_signatures")
