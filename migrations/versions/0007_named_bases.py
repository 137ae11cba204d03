"""Bases by namespace: ids, locations, files and claims apart from what is derived from a fingerprint.

Each base of the previous release becomes published for all namespaces. Versions keep the name that their base had.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Publish what exists. None of it was checked against bytes, so all of it counts as claimed."""
    op.add_column("bases", sa.Column("derived_at", sa.DateTime(timezone=True)))
    op.create_table(
        "named_bases",
        sa.Column("pk", sa.Integer, primary_key=True),
        sa.Column("namespace", sa.String(64), nullable=False),
        sa.Column("base_pk", sa.Integer, sa.ForeignKey("bases.pk"), nullable=False),
        sa.Column("id", sa.String(200), nullable=False),
        sa.Column("revision", sa.String(100)),
        sa.Column("location", sa.Text),
        sa.Column("manifest_digest", sa.String(64), sa.ForeignKey("manifests.digest")),
        sa.Column("weights_digest", sa.String(64), nullable=False),
        sa.Column("architecture", sa.String(200), nullable=False),
        sa.Column("config", sa.JSON, nullable=False),
        sa.Column("tensors", sa.JSON, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("facts", sa.String(10), nullable=False),
        sa.Column("created_by", sa.String(100), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("named_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("edition", sa.Integer, nullable=False),
        sa.UniqueConstraint("namespace", "base_pk", name=op.f("uq_named_bases_namespace_base_pk")),
    )
    op.create_index("ix_named_bases_id_namespace", "named_bases", ["id", "namespace"])
    op.create_index("ix_named_bases_base_pk", "named_bases", ["base_pk"])
    op.create_index("ix_named_bases_manifest_digest", "named_bases", ["manifest_digest"])
    op.execute(
        "INSERT INTO named_bases (namespace, base_pk, id, revision, location, manifest_digest, weights_digest, architecture,"
        " config, tensors, size_bytes, facts, created_by, created_at, named_at, edition)"
        " SELECT '*', pk, id, revision, location, manifest_digest, weights_digest, architecture,"
        " config, tensors, size_bytes, 'claimed', created_by, created_at, created_at, 0 FROM bases ORDER BY pk"
    )
    op.add_column("versions", sa.Column("base_id", sa.String(200), nullable=False, server_default=""))
    op.add_column("versions", sa.Column("base_revision", sa.String(100)))
    op.add_column("versions", sa.Column("base_weights_digest", sa.String(64), nullable=False, server_default=""))
    op.add_column("versions", sa.Column("base_architecture", sa.String(200), nullable=False, server_default=""))
    op.execute(
        "UPDATE versions SET base_id = bases.id, base_revision = bases.revision,"
        " base_weights_digest = bases.weights_digest, base_architecture = bases.architecture"
        " FROM bases WHERE bases.pk = versions.base_pk"
    )


def downgrade() -> None:
    """Only the first namespace's name for a base is kept."""
    for column in ("base_architecture", "base_weights_digest", "base_revision", "base_id"):
        op.drop_column("versions", column)
    op.drop_table("named_bases")
    op.drop_column("bases", "derived_at")
