"""Series of trainings, and what versions keep of them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "job_series",
        sa.Column("job_id", sa.String(32), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("serial", sa.Integer, nullable=False),
        sa.Column("names", sa.JSON, nullable=False),
        sa.Column("last_step", sa.Integer, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_job_series_job_id_jobs", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", name="pk_job_series"),
    )
    op.create_table(
        "job_series_blocks",
        sa.Column("job_id", sa.String(32), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("first_step", sa.Integer, nullable=False),
        sa.Column("last_step", sa.Integer, nullable=False),
        sa.Column("points", sa.Integer, nullable=False),
        sa.Column("names", sa.JSON, nullable=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sa.Column("record_bytes", sa.BigInteger, nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"], ["job_series.job_id"], name="fk_job_series_blocks_job_id_job_series", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("job_id", "number", name="pk_job_series_blocks"),
    )
    op.create_table(
        "version_series",
        sa.Column("version_pk", sa.Integer, nullable=False),
        sa.Column("job", sa.String(32), nullable=False),
        sa.Column("last_step", sa.Integer, nullable=False),
        sa.Column("names", sa.JSON, nullable=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sa.Column("record_bytes", sa.BigInteger, nullable=False),
        sa.ForeignKeyConstraint(["version_pk"], ["versions.pk"], name="fk_version_series_version_pk_versions"),
        sa.PrimaryKeyConstraint("version_pk", name="pk_version_series"),
    )
    op.create_index("ix_version_series_job", "version_series", ["job"])


def downgrade() -> None:
    """Remove them; the points are lost."""
    for table in ("version_series", "job_series_blocks", "job_series"):
        op.drop_table(table)
