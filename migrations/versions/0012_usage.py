"""How much namespaces have of each kind, as sums; room that upload sessions have reserved in a namespace.

A server of the previous release adds nothing to the sums while servers are replaced; what it did is counted by the next
daily run. Its upload sessions have nothing reserved.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_BYTES = ("versions_bytes", "datasets_bytes", "bases_bytes", "merged_bytes", "checkpoints_bytes", "reserved_bytes")
#: What each namespace has, one kind per row.
_THERE = (
    "SELECT namespace, 'adapters' AS kind, count(*) AS amount FROM adapters WHERE last_number > 0 GROUP BY namespace",
    "SELECT a.namespace, 'versions_bytes', sum(m.size_bytes) FROM versions v JOIN adapters a ON a.pk = v.adapter_pk "
    "JOIN manifests m ON m.digest = v.digest WHERE v.state IN ('ready', 'archived', 'quarantined') GROUP BY a.namespace",
    "SELECT x.namespace, 'datasets_bytes', sum(d.size_bytes) FROM dataset_access x JOIN datasets d ON d.digest = x.digest "
    "WHERE x.removed_at IS NULL GROUP BY x.namespace",
    "SELECT b.namespace, 'bases_bytes', sum(m.size_bytes) FROM named_bases b JOIN manifests m ON m.digest = b.manifest_digest "
    "GROUP BY b.namespace",
    "SELECT x.namespace, 'merged_bytes', sum(m.size_bytes) FROM manifest_access x "
    "JOIN manifests m ON m.digest = x.manifest_digest WHERE m.kind = 'merged' GROUP BY x.namespace",
    "SELECT j.namespace, 'checkpoints_bytes', sum(c.size_bytes) FROM job_checkpoints c JOIN jobs j ON j.id = c.job_id "
    "GROUP BY j.namespace",
)


def upgrade() -> None:
    """Add the table, filled with what exists, and the columns of sessions."""
    op.add_column("uploads", sa.Column("namespace", sa.String(64), nullable=False, server_default="-"))
    op.add_column("uploads", sa.Column("reserved_bytes", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("upload_blobs", sa.Column("reserved", sa.Boolean, nullable=False, server_default=sa.false()))
    op.create_index("ix_uploads_namespace_expires_at", "uploads", ["namespace", "expires_at"])
    op.create_table(
        "usage",
        sa.Column("namespace", sa.String(64), primary_key=True),
        sa.Column("adapters", sa.Integer, nullable=False, server_default="0"),
        *(sa.Column(name, sa.BigInteger, nullable=False, server_default="0") for name in _BYTES),
    )
    names = ("adapters", *_BYTES)
    sums = ", ".join(f"CAST(coalesce(sum(CASE WHEN kind = '{name}' THEN amount END), 0) AS bigint)" for name in names)
    op.execute(
        f"INSERT INTO usage (namespace, {', '.join(names)}) "  # noqa: S608 - nothing of it comes from outside
        f"SELECT namespace, {sums} FROM ({' UNION ALL '.join(_THERE)}) AS there GROUP BY namespace"
    )


def downgrade() -> None:
    """Remove them; each publication counts what a namespace has again."""
    op.drop_table("usage")
    op.drop_index("ix_uploads_namespace_expires_at", table_name="uploads")
    op.drop_column("upload_blobs", "reserved")
    op.drop_column("uploads", "reserved_bytes")
    op.drop_column("uploads", "namespace")
