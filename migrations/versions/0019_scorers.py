"""Which scorers of a user's own workers have, which evaluations need, and what they stumbled over.

Workers of the release before don't say which they have, and are given jobs as before; its servers pass over what a job needs, and
a worker that lacks it says so.
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
    """Take them away."""
    op.drop_column("evaluations", "scorer_errors")
    op.drop_column("jobs", "needs_scorers")
    op.drop_column("workers", "scorers")
