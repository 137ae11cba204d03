"""Policies of aliases, approvals, decisions, and what they are made by."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables, and let each move of an alias name its decision."""
    op.add_column("alias_moves", sa.Column("decision", sa.String(32)))
    op.add_column("alias_moves", sa.Column("outcome", sa.String(12)))
    op.create_table(
        "promotion_generations",
        sa.Column("scope", sa.String(129), nullable=False),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("scope", name="pk_promotion_generations"),
    )
    op.create_table(
        "promotion_policies",
        sa.Column("pk", sa.Integer, nullable=False),
        sa.Column("scope", sa.String(129), nullable=False),
        sa.Column("alias", sa.String(64), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("namespace", sa.String(64), nullable=False),
        sa.Column("document", sa.JSON),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("loosened", sa.JSON, nullable=False),
        sa.Column("loosens", sa.Boolean, nullable=False),
        sa.Column("created_by", sa.String(100), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("record_bytes", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("pk", name="pk_promotion_policies"),
        sa.UniqueConstraint("scope", "alias", "version", name="uq_promotion_policies_scope_alias_version"),
    )
    op.create_index("ix_promotion_policies_namespace", "promotion_policies", ["namespace"])
    op.create_table(
        "promotion_shared_rows",
        sa.Column("dataset_digest", sa.String(64), nullable=False),
        sa.Column("other_digest", sa.String(64), nullable=False),
        sa.Column("reading", sa.String(64), nullable=False),
        sa.Column("rows", sa.Integer, nullable=False),
        sa.Column("shared", sa.Integer),
        sa.Column("reason", sa.Text),
        sa.PrimaryKeyConstraint("dataset_digest", "other_digest", "reading", name="pk_promotion_shared_rows"),
    )
    op.create_table(
        "promotion_tries",
        sa.Column("adapter", sa.String(129), nullable=False),
        sa.Column("dataset_digest", sa.String(64), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("namespace", sa.String(64), nullable=False),
        sa.Column("columns", sa.Text),
        sa.Column("how", sa.String(8), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("record_bytes", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("adapter", "dataset_digest", "digest", name="pk_promotion_tries"),
    )
    op.create_index("ix_promotion_tries_namespace", "promotion_tries", ["namespace"])
    op.create_index("ix_promotion_tries_digest", "promotion_tries", ["digest"])
    op.add_column("evaluations", sa.Column("scored_by", sa.String(120)))
    op.add_column("evaluations", sa.Column("scored_by_name", sa.String(100)))
    # What was scored before this counts as well. It takes no room that anybody was told of.
    op.execute(
        "INSERT INTO promotion_tries (adapter, dataset_digest, digest, namespace, how, at, record_bytes)"
        " SELECT a.name, e.dataset_digest, e.digest, a.namespace, 'scored', min(e.created_at), 0 FROM evaluations e"
        " JOIN versions v ON v.digest = e.digest JOIN adapters a ON a.pk = v.adapter_pk AND a.namespace = e.namespace"
        " GROUP BY a.name, e.dataset_digest, e.digest, a.namespace"
    )
    op.create_table(
        "promotion_approvals",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("adapter_pk", sa.Integer, nullable=False),
        sa.Column("alias", sa.String(64), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("kind", sa.String(12), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("owner", sa.String(120), nullable=False),
        sa.Column("token_id", sa.String(32)),
        sa.Column("created_by", sa.String(100), nullable=False),
        sa.Column("policies_digest", sa.String(64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_at_s", sa.Double, nullable=False),
        sa.Column("withdrawn_at", sa.DateTime(timezone=True)),
        sa.Column("record_bytes", sa.BigInteger, nullable=False),
        sa.ForeignKeyConstraint(["adapter_pk"], ["adapters.pk"], name="fk_promotion_approvals_adapter_pk_adapters"),
        sa.PrimaryKeyConstraint("id", name="pk_promotion_approvals"),
    )
    op.create_index(
        "ix_promotion_approvals_adapter_pk_alias_digest", "promotion_approvals", ["adapter_pk", "alias", "digest"]
    )
    op.create_table(
        "promotion_automatic",
        sa.Column("adapter_pk", sa.Integer, nullable=False),
        sa.Column("alias", sa.String(64), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("policies_digest", sa.String(64), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("state", sa.String(10), nullable=False),
        sa.Column("jobs", sa.JSON, nullable=False),
        sa.Column("message", sa.Text),
        sa.Column("generations", sa.JSON, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["adapter_pk"], ["adapters.pk"], name="fk_promotion_automatic_adapter_pk_adapters"),
        sa.PrimaryKeyConstraint("adapter_pk", "alias", "digest", "policies_digest", name="pk_promotion_automatic"),
    )
    op.create_index("ix_promotion_automatic_state_at", "promotion_automatic", ["state", "at"])
    op.create_table(
        "promotion_decisions",
        sa.Column("pk", sa.Integer, nullable=False),
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("adapter_pk", sa.Integer, nullable=False),
        sa.Column("alias", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(10), nullable=False),
        sa.Column("digest", sa.String(64)),
        sa.Column("number", sa.Integer),
        sa.Column("from_number", sa.Integer),
        sa.Column("outcome", sa.String(12), nullable=False),
        sa.Column("moved", sa.Boolean, nullable=False),
        sa.Column("move", sa.Integer),
        sa.Column("rules", sa.JSON, nullable=False),
        sa.Column("policies", sa.JSON, nullable=False),
        sa.Column("notes", sa.JSON, nullable=False),
        sa.Column("missing", sa.JSON, nullable=False),
        sa.Column("inputs_digest", sa.String(64), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("token_id", sa.String(32)),
        sa.Column("decided_by", sa.String(100), nullable=False),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("record_bytes", sa.BigInteger, nullable=False),
        sa.ForeignKeyConstraint(["adapter_pk"], ["adapters.pk"], name="fk_promotion_decisions_adapter_pk_adapters"),
        sa.PrimaryKeyConstraint("pk", name="pk_promotion_decisions"),
        sa.UniqueConstraint("id", name="uq_promotion_decisions_id"),
    )
    op.create_index("ix_promotion_decisions_adapter_pk_alias_pk", "promotion_decisions", ["adapter_pk", "alias", "pk"])
    op.create_index("ix_promotion_decisions_inputs_digest", "promotion_decisions", ["inputs_digest"])
    op.create_table(
        "promotion_probes",
        sa.Column("pk", sa.Integer, nullable=False),
        sa.Column("adapter_pk", sa.Integer, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("owner", sa.String(120), nullable=False),
        sa.Column("token_id", sa.String(32)),
        sa.Column("created_by", sa.String(100), nullable=False),
        sa.Column("agrees", sa.Boolean, nullable=False),
        sa.Column("difference", sa.Double),
        sa.Column("tolerance", sa.Double),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("record_bytes", sa.BigInteger, nullable=False),
        sa.ForeignKeyConstraint(["adapter_pk"], ["adapters.pk"], name="fk_promotion_probes_adapter_pk_adapters"),
        sa.PrimaryKeyConstraint("pk", name="pk_promotion_probes"),
        sa.UniqueConstraint("adapter_pk", "digest", "owner", name="uq_promotion_probes_adapter_pk_digest_owner"),
    )
    op.create_table(
        "promotion_statements",
        sa.Column("adapter_pk", sa.Integer, nullable=False),
        sa.Column("alias", sa.String(64), nullable=False),
        sa.Column("key_id", sa.String(64), nullable=False),
        sa.Column("move", sa.BigInteger, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("statement", sa.JSON, nullable=False),
        sa.Column("public_key", sa.Text, nullable=False),
        sa.Column("bundle", sa.Text, nullable=False),
        sa.Column("created_by", sa.String(100), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("record_bytes", sa.BigInteger, nullable=False),
        sa.ForeignKeyConstraint(["adapter_pk"], ["adapters.pk"], name="fk_promotion_statements_adapter_pk_adapters"),
        sa.PrimaryKeyConstraint("adapter_pk", "alias", "key_id", name="pk_promotion_statements"),
    )


def downgrade() -> None:
    """Remove them: aliases are protected as `alias protect` has them alone."""
    for table in (
        "promotion_statements",
        "promotion_probes",
        "promotion_decisions",
        "promotion_automatic",
        "promotion_approvals",
        "promotion_tries",
        "promotion_shared_rows",
        "promotion_policies",
        "promotion_generations",
    ):
        op.drop_table(table)
    for column in ("scored_by_name", "scored_by"):
        op.drop_column("evaluations", column)
    op.drop_column("alias_moves", "outcome")
    op.drop_column("alias_moves", "decision")
