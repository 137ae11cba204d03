"""The first rows of trainings, and the rows of scores that pages show first."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "training_rows",
        sa.Column("job_id", sa.String(32), nullable=False),
        sa.Column("recorded", sa.JSON, nullable=False),
        sa.Column("record_bytes", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_training_rows_job_id_jobs", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", name="pk_training_rows"),
    )
    op.create_table(
        "training_row_datasets",
        sa.Column("job_id", sa.String(32), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"],
            ["training_rows.job_id"],
            name="fk_training_row_datasets_job_id_training_rows",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("job_id", "digest", name="pk_training_row_datasets"),
    )
    op.create_index("ix_training_row_datasets_digest", "training_row_datasets", ["digest"])
    op.create_table(
        "evaluation_picks",
        sa.Column("evaluation_id", sa.String(32), nullable=False),
        sa.Column("question", sa.String(64), nullable=False),
        sa.Column("picked", sa.JSON, nullable=False),
        sa.Column("record_bytes", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["evaluation_id"],
            ["evaluations.id"],
            name="fk_evaluation_picks_evaluation_id_evaluations",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("evaluation_id", "question", name="pk_evaluation_picks"),
    )


def downgrade() -> None:
    """Remove them: pages show no rows."""
    op.drop_table("evaluation_picks")
    op.drop_table("training_row_datasets")
    op.drop_table("training_rows")
