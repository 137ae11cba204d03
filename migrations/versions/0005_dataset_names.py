"""Datasets: what is said about one belongs to the namespace that said it; one that was given up is remembered there.

Names and facts from the previous release go to each namespace that has the dataset, because nobody knows any more which
of them gave them. The columns of `datasets` stay for servers of that release, which see what they wrote themselves.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_SAID = ("name", "format", "rows", "shape", "created_by", "created_at")
_EPOCH = "1970-01-01 00:00:00+00:00"


def upgrade() -> None:
    """Add columns and fill them; who gave a dataset up is found in the audit trail."""
    op.add_column("dataset_access", sa.Column("name", sa.String(200), nullable=False, server_default=""))
    op.add_column("dataset_access", sa.Column("format", sa.String(20), nullable=False, server_default=""))
    op.add_column("dataset_access", sa.Column("rows", sa.Integer))
    op.add_column("dataset_access", sa.Column("shape", sa.String(40)))
    op.add_column("dataset_access", sa.Column("created_by", sa.String(100), nullable=False, server_default=""))
    # Servers of the previous release give none; SQLite accepts only a constant as the default of a new column.
    moment = sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=_EPOCH)
    op.add_column("dataset_access", moment)
    op.add_column("dataset_access", sa.Column("removed_at", sa.DateTime(timezone=True)))
    op.execute(
        "INSERT INTO dataset_access (digest, namespace, removed_at) "
        "SELECT d.digest, a.namespace, max(a.at) FROM audit_entries a JOIN datasets d ON d.digest = a.subject "
        "WHERE a.action = 'dataset.remove' AND NOT EXISTS "
        "(SELECT 1 FROM dataset_access x WHERE x.digest = d.digest AND x.namespace = a.namespace) "
        "GROUP BY d.digest, a.namespace"
    )
    for column in _SAID:
        op.execute(
            f"UPDATE dataset_access SET {column} = "  # noqa: S608 - the columns are those above
            f"(SELECT d.{column} FROM datasets d WHERE d.digest = dataset_access.digest)"
        )
    op.create_index("ix_dataset_access_created_at", "dataset_access", ["created_at"])
    op.create_index("ix_dataset_access_name_namespace", "dataset_access", ["name", "namespace"])


def downgrade() -> None:
    """Schema 0004 has one name and one set of facts for everybody: what all namespaces of a dataset agree on is
    kept.
    """
    op.execute("DELETE FROM dataset_access WHERE removed_at IS NOT NULL")
    alike = "(SELECT max(a.{0}) FROM dataset_access a WHERE a.digest = datasets.digest HAVING min(a.{0}) = max(a.{0}))"
    # The name comes last: rows of this release are recognised by an empty one.
    for column in ("rows", "shape", "name"):
        kept = f"coalesce({alike.format(column)}, {column})"
        op.execute(f"UPDATE datasets SET {column} = {kept} WHERE name = ''")  # noqa: S608 - nothing comes from outside
    op.drop_index("ix_dataset_access_name_namespace", table_name="dataset_access")
    op.drop_index("ix_dataset_access_created_at", table_name="dataset_access")
    for column in ("removed_at", *reversed(_SAID)):
        op.drop_column("dataset_access", column)
