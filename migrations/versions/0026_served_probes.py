"""What versions answer to fixed prompts, by which engines are proved to serve them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "version_served_probes",
        sa.Column("pk", sa.Integer, nullable=False),
        sa.Column("version_pk", sa.Integer, nullable=False),
        sa.Column("owner", sa.String(120), nullable=False),
        sa.Column("standing", sa.Integer, nullable=False),
        sa.Column("probe", sa.JSON, nullable=False),
        sa.Column("created_by", sa.String(100), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("record_bytes", sa.BigInteger, nullable=False),
        sa.ForeignKeyConstraint(["version_pk"], ["versions.pk"], name="fk_version_served_probes_version_pk_versions"),
        sa.PrimaryKeyConstraint("pk", name="pk_version_served_probes"),
        sa.UniqueConstraint("version_pk", "owner", name="uq_version_served_probes_version_pk_owner"),
    )


def downgrade() -> None:
    """Remove it: engines are no longer proved."""
    op.drop_table("version_served_probes")
