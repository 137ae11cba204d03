"""Sweeps, their members, and what these answered at rungs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add two columns of jobs."""
    op.add_column("jobs", sa.Column("sweep", sa.String(32)))
    op.add_column("jobs", sa.Column("sweep_number", sa.Integer))
    op.create_index("uq_jobs_sweep_sweep_number", "jobs", ["sweep", "sweep_number"], unique=True)


def downgrade() -> None:
    """Remove them; the trainings of sweeps stay, and belong to none."""
    op.drop_index("uq_jobs_sweep_sweep_number", table_name="jobs")
    op.drop_column("jobs", "sweep_number")
    op.drop_column("jobs", "sweep")
