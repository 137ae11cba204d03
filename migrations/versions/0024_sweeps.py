"""Sweeps, their members, and what these answered at rungs."""

from __future__ import annotations

from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None

_JOBS = sa.table(
    "jobs",
    sa.column("id", sa.String),
    sa.column("sweep", sa.String),
    sa.column("state", sa.String),
    sa.column("reason", sa.String),
    sa.column("finished_at", sa.DateTime(timezone=True)),
)
_CHECKPOINTS = sa.table(
    "job_checkpoints",
    sa.column("job_id", sa.String),
    sa.column("kept", sa.Boolean),
    sa.column("expires_at", sa.DateTime(timezone=True)),
)


def upgrade() -> None:
    """Make the tables, and two columns of jobs."""
    op.add_column("jobs", sa.Column("sweep", sa.String(32)))
    op.add_column("jobs", sa.Column("sweep_number", sa.Integer))
    op.create_index("uq_jobs_sweep_sweep_number", "jobs", ["sweep", "sweep_number"], unique=True)
    op.create_table(
        "sweeps",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("namespace", sa.String(64), nullable=False),
        sa.Column("adapter", sa.String(200), nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("submission", sa.JSON, nullable=False),
        sa.Column("submission_digest", sa.String(64), nullable=False),
        sa.Column("submit_key", sa.String(200)),
        sa.Column("owner", sa.String(120), nullable=False),
        sa.Column("created_by", sa.String(100), nullable=False),
        sa.Column("actor", sa.String(120), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("began_at_s", sa.Float, nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
        sa.Column("most_members", sa.Integer, nullable=False),
        sa.Column("message", sa.Text),
        sa.Column("winner", sa.Integer),
        sa.Column("verdict", sa.JSON),
        sa.Column("kept", sa.Boolean, nullable=False),
        sa.Column("record_bytes", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_sweeps"),
    )
    op.create_index("uq_sweeps_owner_submit_key", "sweeps", ["owner", "submit_key"], unique=True)
    op.create_index("ix_sweeps_state", "sweeps", ["state"])
    op.create_index("ix_sweeps_created_at", "sweeps", ["created_at"])
    op.create_table(
        "sweep_members",
        sa.Column("sweep", sa.String(32), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("trial", sa.Integer, nullable=False),
        sa.Column("setting", sa.JSON, nullable=False),
        sa.Column("seed", sa.BigInteger, nullable=False),
        sa.Column("same_as", sa.Integer),
        sa.Column("job", sa.String(32)),
        sa.Column("scoring", sa.String(32)),
        sa.Column("scored", sa.Boolean, nullable=False),
        sa.Column("outcome", sa.String(20)),
        sa.Column("reason", sa.Text),
        sa.Column("step", sa.Integer),
        sa.Column("steps", sa.Integer),
        sa.Column("surplus_steps", sa.Integer, nullable=False),
        sa.Column("metrics", sa.JSON),
        sa.Column("loss", sa.Float),
        sa.Column("row_losses", sa.LargeBinary),
        sa.Column("row_weights", sa.LargeBinary),
        sa.Column("signature", sa.JSON),
        sa.Column("ref", sa.String(300)),
        sa.Column("record_bytes", sa.BigInteger, nullable=False),
        sa.ForeignKeyConstraint(["sweep"], ["sweeps.id"], name="fk_sweep_members_sweep_sweeps", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("sweep", "number", name="pk_sweep_members"),
    )
    op.create_index("ix_sweep_members_job", "sweep_members", ["job"])
    op.create_table(
        "sweep_rungs",
        sa.Column("sweep", sa.String(32), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("rung", sa.Integer, nullable=False),
        sa.Column("place", sa.Integer, nullable=False),
        sa.Column("step", sa.Integer, nullable=False),
        sa.Column("loss", sa.Float, nullable=False),
        sa.Column("goes_on", sa.Boolean, nullable=False),
        sa.ForeignKeyConstraint(
            ["sweep", "number"],
            ["sweep_members.sweep", "sweep_members.number"],
            name="fk_sweep_rungs_sweep_number_sweep_members",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("sweep", "number", "rung", name="pk_sweep_rungs"),
    )


def downgrade() -> None:
    """Remove them; the trainings of sweeps that have ended stay, and belong to none.

    Jobs of sweeps that wait or run are cancelled: an older release would train members as if they were alone, and can't read which
    members an evaluation scores. What members have kept goes as the checkpoints of other jobs do, except where an evaluation names
    it: that stays until its job is deleted.
    """
    unfinished = sa.and_(_JOBS.c.sweep.is_not(None), _JOBS.c.state.in_(("queued", "running")))
    now = datetime.now(UTC)
    op.execute(sa.update(_JOBS).where(unfinished).values(state="cancelled", reason="cancelled", finished_at=now))
    of_sweeps = sa.select(_JOBS.c.id).where(_JOBS.c.sweep.is_not(None))
    lasting = sa.and_(_CHECKPOINTS.c.job_id.in_(of_sweeps), _CHECKPOINTS.c.expires_at.is_(None), ~_CHECKPOINTS.c.kept)
    op.execute(sa.update(_CHECKPOINTS).where(lasting).values(expires_at=now))
    for table in ("sweep_rungs", "sweep_members", "sweeps"):
        op.drop_table(table)
    op.drop_index("uq_jobs_sweep_sweep_number", table_name="jobs")
    op.drop_column("jobs", "sweep_number")
    op.drop_column("jobs", "sweep")
