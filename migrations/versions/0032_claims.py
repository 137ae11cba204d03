"""What is claimed of versions whose past another registry knows."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0032"
down_revision = "0031"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "version_claims",
        sa.Column("version_pk", sa.Integer(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("key_id", sa.String(64), nullable=True),
        sa.Column("bundle", sa.Text(), nullable=True),
        sa.Column("created_by", sa.String(100), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("record_bytes", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["version_pk"], ["versions.pk"], name="fk_version_claims_version_pk_versions"),
        sa.PrimaryKeyConstraint("version_pk", name="pk_version_claims"),
    )


def downgrade() -> None:
    """Remove it: nothing is claimed of any version, and no namespace is charged for claims."""
    claims = sa.table("version_claims", sa.column("version_pk"), sa.column("record_bytes", sa.BigInteger))
    versions = sa.table("versions", sa.column("pk"), sa.column("adapter_pk"))
    adapters = sa.table("adapters", sa.column("pk"), sa.column("namespace"))
    usage = sa.table("usage", sa.column("namespace"), sa.column("records_bytes", sa.BigInteger))
    charged = claims.join(versions, versions.c.pk == claims.c.version_pk)
    charged = charged.join(adapters, adapters.c.pk == versions.c.adapter_pk)
    given_back = (
        sa.select(sa.func.sum(claims.c.record_bytes))
        .select_from(charged)
        .where(adapters.c.namespace == usage.c.namespace)
        .scalar_subquery()
    )
    op.execute(
        sa.update(usage)
        .where(usage.c.namespace.in_(sa.select(adapters.c.namespace).select_from(charged)))
        .values(records_bytes=usage.c.records_bytes - given_back)
    )
    op.drop_table("version_claims")
