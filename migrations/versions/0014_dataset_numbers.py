"""Datasets: those with the same name in a namespace are numbered, and a dataset may have several names there, and has
its columns.

Existing names are numbered in the order of their datasets. Servers of the previous release give names without numbers:
each gets its number with the entry that they write to the audit trail.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

_TRIGGER = "number_dataset"
_IS_NAMED = "NEW.action = 'dataset.register' AND {name} <> ''"
#: When this release writes such an entry, it has numbered the dataset already, so nothing is left to do.
_IS_NEW = (
    "NOT EXISTS (SELECT 1 FROM dataset_numbers n"
    " WHERE n.digest = NEW.subject AND n.namespace = NEW.namespace AND n.name = {name})"
)
_NUMBER = (
    "INSERT INTO dataset_names (namespace, name, newest) VALUES (NEW.namespace, {name}, 0) ON CONFLICT DO NOTHING;"  # noqa: S608 - nothing comes from outside
    f" UPDATE dataset_names SET newest = newest + 1 WHERE namespace = NEW.namespace AND name = {{name}} AND {_IS_NEW};"
    " INSERT INTO dataset_numbers (namespace, name, number, digest, created_at)"
    " SELECT s.namespace, s.name, s.newest, NEW.subject, NEW.at FROM dataset_names s"
    f" WHERE s.namespace = NEW.namespace AND s.name = {{name}} AND {_IS_NEW}"
)


def upgrade() -> None:
    """Add the column, make the tables, number what there is, and make the trigger."""
    op.add_column("dataset_access", sa.Column("columns", sa.String(2000)))
    op.create_table(
        "dataset_names",
        sa.Column("namespace", sa.String(64), primary_key=True),
        sa.Column("name", sa.String(200), primary_key=True),
        sa.Column("newest", sa.Integer, nullable=False),
    )
    op.create_table(
        "dataset_numbers",
        sa.Column("namespace", sa.String(64), primary_key=True),
        sa.Column("name", sa.String(200), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("digest", sa.String(64), sa.ForeignKey("datasets.digest", ondelete="CASCADE"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.UniqueConstraint("digest", "namespace", "name", name="uq_dataset_numbers_digest_namespace_name"),
    )
    op.create_index("ix_dataset_numbers_name", "dataset_numbers", ["name"])
    op.execute(
        "INSERT INTO dataset_numbers (namespace, name, number, digest, created_at) "
        "SELECT namespace, name, row_number() OVER (PARTITION BY namespace, name ORDER BY created_at, digest), "
        "digest, created_at FROM dataset_access WHERE name <> ''"
    )
    op.execute(
        "INSERT INTO dataset_names (namespace, name, newest) "
        "SELECT namespace, name, max(number) FROM dataset_numbers GROUP BY namespace, name"
    )
    sqlite = op.get_bind().dialect.name == "sqlite"
    name = "coalesce(json_extract(NEW.\"after\", '$.name'), '')" if sqlite else "coalesce(NEW.\"after\"->>'name', '')"
    when, does = _IS_NAMED.format(name=name), _NUMBER.format(name=name)
    if sqlite:
        op.execute(f"CREATE TRIGGER {_TRIGGER} AFTER INSERT ON audit_entries WHEN {when} BEGIN {does}; END")
        return
    op.execute(f"CREATE FUNCTION {_TRIGGER}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {does}; RETURN NEW; END $$")
    op.execute(
        f"CREATE TRIGGER {_TRIGGER} AFTER INSERT ON audit_entries FOR EACH ROW WHEN ({when}) EXECUTE FUNCTION {_TRIGGER}()"
    )


def downgrade() -> None:
    """With schema 0013, a name means its newest dataset, by the row in `dataset_access`, which has the first name."""
    sqlite = op.get_bind().dialect.name == "sqlite"
    op.execute(f"DROP TRIGGER {_TRIGGER}" if sqlite else f"DROP TRIGGER {_TRIGGER} ON audit_entries")
    if not sqlite:
        op.execute(f"DROP FUNCTION {_TRIGGER}()")
    op.drop_table("dataset_numbers")
    op.drop_table("dataset_names")
    op.drop_column("dataset_access", "columns")
