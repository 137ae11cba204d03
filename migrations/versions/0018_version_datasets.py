"""Versions that were trained on several datasets are found by each of them.

The previous release trains on one, which its origins name.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "version_datasets",
        sa.Column("version_pk", sa.Integer, sa.ForeignKey("versions.pk"), primary_key=True),
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("weight", sa.Double),
    )
    op.create_index("ix_version_datasets_digest", "version_datasets", ["digest"])


def downgrade() -> None:
    """Remove it; the origins still name all datasets."""
    op.drop_table("version_datasets")
