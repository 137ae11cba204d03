"""Which users' own scorers workers have, which ones evaluations need, and where they failed.

Workers of the previous release don't say which they have, and are given jobs as before; its servers ignore what a job
needs, and a worker that lacks it says so.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns."""
    op.add_column("workers", sa.Column("scorers", sa.JSON))
    op.add_column("jobs", sa.Column("needs_scorers", sa.Text))
    op.add_column("evaluations", sa.Column("scorer_errors", sa.JSON))


def downgrade() -> None:
    """Remove them."""
    op.drop_column("evaluations", "scorer_errors")
    op.drop_column("jobs", "needs_scorers")
    op.drop_column("workers", "scorers")
