"""What jobs are forecast to take, what workers must have for them, and what trainings took.

Jobs of the previous release have no forecast, and go to the same workers as before.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns, and make the table."""
    op.add_column("jobs", sa.Column("least_card_bytes", sa.BigInteger))
    op.add_column("jobs", sa.Column("least_machine_bytes", sa.BigInteger))
    op.add_column("jobs", sa.Column("forecast", sa.JSON))
    op.create_table(
        "job_peaks",
        sa.Column("job_id", sa.String(32), sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("device", sa.String(100), nullable=False),
        sa.Column("forecast_bytes", sa.BigInteger, nullable=False),
        sa.Column("measured_bytes", sa.BigInteger, nullable=False),
        sa.Column("parameters", sa.BigInteger),
        sa.Column("tokens", sa.BigInteger),
        sa.Column("train_s", sa.Float),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("ix_job_peaks_device_at", "job_peaks", ["device", "at"])


def downgrade() -> None:
    """Remove them."""
    op.drop_index("ix_job_peaks_device_at", "job_peaks")
    op.drop_table("job_peaks")
    for name in ("forecast", "least_machine_bytes", "least_card_bytes"):
        op.drop_column("jobs", name)
