"""How much of the database each row takes, and each namespace, with a limit; which kept answers are long.

Rows that exist are measured by what they have in the database now. What a server of the previous release writes while
servers are replaced counts as nothing.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

#: What a row takes beside its JSON and its texts, and each blob of an upload session; and the limit of namespaces that
#: have limits of their own.
_ROW, _BLOB, _LIMIT = 200, 400, 2**30

#: By table: the columns that are measured.
_MEASURED = {
    "named_bases": ("config", "tensors"),
    "versions": ("lora", "quantization", "tags", "description", "warnings", "unknown"),
    "evaluations": ("spec", "metrics", "samples", "libraries", "scorer_errors"),
    "jobs": ("request", "forecast"),
    "job_checkpoints": ("report",),
}
_ORIGIN = ("dataset", "training", "metrics", "libraries", "reported")
#: By table: which rows of another one count for a row of it, too: what they have in common, the columns that are measured,
#: and what a row takes beside these.
_BESIDE = {
    "versions": (
        ("version_origins", "other.version_pk = versions.pk", _ORIGIN, _ROW),
        ("version_notes", "other.version_pk = versions.pk", ("text",), _ROW),
        ("manifests", "other.digest = versions.digest", ("body",), 0),
    ),
    "named_bases": (
        ("manifests", "other.digest = named_bases.manifest_digest", ("body",), 0),
        ("bases", "other.pk = named_bases.base_pk AND named_bases.facts = 'derived'", ("tensors",), 0),
    ),
    "job_checkpoints": (("manifests", "other.digest = job_checkpoints.manifest_digest", ("body",), 0),),
}
#: What each namespace has.
_THERE = (
    "SELECT namespace, record_bytes AS amount FROM named_bases",
    "SELECT a.namespace, v.record_bytes FROM versions v JOIN adapters a ON a.pk = v.adapter_pk",
    "SELECT namespace, record_bytes FROM evaluations",
    "SELECT namespace, record_bytes FROM uploads",
    "SELECT namespace, record_bytes + result_bytes FROM jobs",
    "SELECT j.namespace, c.record_bytes FROM job_checkpoints c JOIN jobs j ON j.id = c.job_id",
)


def upgrade() -> None:
    """Add the columns, and fill them."""
    for table in (*_MEASURED, "uploads"):
        op.add_column(table, sa.Column("record_bytes", sa.BigInteger, nullable=False, server_default="0"))
    for column in ("result_bytes", "events_bytes"):
        op.add_column("jobs", sa.Column(column, sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("keyed_requests", sa.Column("is_long", sa.Boolean, nullable=False, server_default=sa.false()))
    op.create_index(
        "ix_keyed_requests_long",
        "keyed_requests",
        ["owner", "created_at"],
        sqlite_where=sa.text("is_long = 1"),
        postgresql_where=sa.text("is_long"),
    )
    op.add_column("usage", sa.Column("records_bytes", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("quotas", sa.Column("max_record_bytes", sa.BigInteger))
    op.execute(f"UPDATE quotas SET max_record_bytes = {_LIMIT}")  # noqa: S608 - nothing of it comes from outside
    for table, columns in _MEASURED.items():
        beside = "".join(
            f" + (SELECT coalesce(sum({_taken(others, 'other', row)}), 0) FROM {other} other WHERE {same})"  # noqa: S608
            for other, same, others, row in _BESIDE.get(table, ())
        )
        op.execute(f"UPDATE {table} SET record_bytes = {_taken(columns, table, _ROW)}{beside}")  # noqa: S608
    op.execute(f"UPDATE jobs SET result_bytes = {_taken(('result',), 'jobs', _ROW)} WHERE result IS NOT NULL")  # noqa: S608
    blobs = f"{_BLOB} * (SELECT count(*) FROM upload_blobs b WHERE b.upload_id = uploads.id)"  # noqa: S608
    op.execute(f"UPDATE uploads SET record_bytes = {_ROW} + {blobs}")  # noqa: S608
    there = " UNION ALL ".join(_THERE)
    sums = f"SELECT namespace, CAST(sum(amount) AS bigint) FROM ({there}) AS there GROUP BY namespace"  # noqa: S608
    op.execute(
        f"INSERT INTO usage (namespace, records_bytes) {sums} "
        "ON CONFLICT (namespace) DO UPDATE SET records_bytes = excluded.records_bytes"
    )


def _taken(columns: tuple[str, ...], table: str, row: int) -> str:
    """What these columns of a row take together, as an expression."""
    text, length = "CAST({0} AS text)", "octet_length(CAST({0} AS text))"
    if op.get_bind().dialect.name == "sqlite":
        length = "length(CAST({0} AS BLOB))"
    # What JSON has for nothing takes nothing.
    taken = f"CASE WHEN {text} = 'null' THEN 0 ELSE coalesce({length}, 0) END"
    return " + ".join([str(row), *(taken.format(f"{table}.{column}") for column in columns)])


def downgrade() -> None:
    """Remove them."""
    op.drop_index("ix_keyed_requests_long", table_name="keyed_requests")
    op.drop_column("keyed_requests", "is_long")
    op.drop_column("quotas", "max_record_bytes")
    op.drop_column("usage", "records_bytes")
    op.drop_column("jobs", "events_bytes")
    op.drop_column("jobs", "result_bytes")
    for table in (*_MEASURED, "uploads"):
        op.drop_column(table, "record_bytes")
