"""People, search and removal: grants, quotas, the audit trail, tags, targets, metrics, notes, protections, stored answers.

Servers of schema 0001 read `tokens.role` on every request, and that is removed: stop them for this upgrade.
"""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_INDEXES: tuple[tuple[str, str, list[str]], ...] = (
    ("ix_audit_entries_action_pk", "audit_entries", ["action", "pk"]),
    ("ix_audit_entries_actor_pk", "audit_entries", ["actor", "pk"]),
    ("ix_audit_entries_namespace_pk", "audit_entries", ["namespace", "pk"]),
    ("ix_audit_entries_subject_pk", "audit_entries", ["subject", "pk"]),
    ("ix_keyed_requests_created_at", "keyed_requests", ["created_at"]),
    ("ix_dataset_access_namespace", "dataset_access", ["namespace"]),
    ("ix_evaluation_metrics_dataset_digest_name_value", "evaluation_metrics", ["dataset_digest", "name", "value"]),
    ("ix_evaluation_metrics_digest_name", "evaluation_metrics", ["digest", "name"]),
    ("ix_version_notes_version_pk", "version_notes", ["version_pk"]),
    ("ix_version_tags_key_value_version_pk", "version_tags", ["key", "value", "version_pk"]),
    ("ix_version_targets_module_version_pk", "version_targets", ["module", "version_pk"]),
    ("ix_adapters_namespace_name", "adapters", ["namespace", "name"]),
    ("ix_alias_moves_adapter_pk_alias_pk", "alias_moves", ["adapter_pk", "alias", "pk"]),
    ("ix_aliases_name_version_pk", "aliases", ["name", "version_pk"]),
    ("ix_datasets_created_at", "datasets", ["created_at"]),
    ("ix_datasets_name", "datasets", ["name"]),
    ("ix_jobs_kind_subject_state", "jobs", ["kind", "subject", "state"]),
    ("ix_jobs_namespace_state", "jobs", ["namespace", "state"]),
    ("ix_upload_blobs_sha256", "upload_blobs", ["sha256"]),
    ("ix_versions_base_pk_rank_pk", "versions", ["base_pk", "rank", "pk"]),
    ("ix_versions_created_at", "versions", ["created_at"]),
    ("ix_versions_created_by_pk", "versions", ["created_by", "pk"]),
    ("ix_versions_rank_pk", "versions", ["rank", "pk"]),
    ("ix_versions_state_pk", "versions", ["state", "pk"]),
)
_NEW_TABLES = (
    "version_documents",
    "version_notes",
    "version_tags",
    "version_targets",
    "evaluation_metrics",
    "dataset_access",
    "manifest_access",
    "grants",
    "quotas",
    "keyed_requests",
    "audit_entries",
    "alias_protections",
)

_EPOCH = "1970-01-01 00:00:00+00:00"


def upgrade() -> None:
    """Go up."""
    _add_columns()
    _create_tables()
    _fill()
    op.drop_index(op.f("ix_alias_moves_adapter_pk"), "alias_moves")
    op.drop_index(op.f("ix_versions_base_pk"), "versions")
    op.drop_column("tokens", "role")
    for name, table, columns in _INDEXES:
        op.create_index(name, table, columns)
    _guard_audit()


def downgrade() -> None:
    """Go down: a token keeps the role that it has everywhere. Rights that schema 0001 can't express are revoked for
    good.
    """
    _unguard_audit()
    for name, table, _ in reversed(_INDEXES):
        op.drop_index(name, table)
    op.create_index(op.f("ix_versions_base_pk"), "versions", ["base_pk"])
    op.create_index(op.f("ix_alias_moves_adapter_pk"), "alias_moves", ["adapter_pk"])
    op.add_column("tokens", sa.Column("role", sa.String(length=20), nullable=False, server_default=""))
    # With schema 0001 a token for one namespace would be one for all of them, and a worker could write. These keep no
    # role, so that they have none after another upgrade either.
    op.execute(
        "UPDATE tokens SET role = coalesce((SELECT role FROM grants "
        "WHERE token_id = tokens.id AND namespace = '*' AND role <> 'worker'), '')"
    )
    op.execute("UPDATE tokens SET revoked_at = coalesce(revoked_at, created_at) WHERE role = ''")
    for table in _NEW_TABLES:
        op.drop_table(table)
    _forget_collected()
    for table, columns in (
        ("versions", ("moved_at", "unknown")),
        ("uploads", ("finished_at",)),
        ("tokens", ("created_by",)),
        ("manifests", ("collected_at",)),
        ("jobs", ("namespace",)),
        ("evaluations", ("namespace",)),
        ("datasets", ("removed_at",)),
        ("blobs", ("collected_at", "facts")),
        ("alias_moves", ("kind",)),
        ("adapters", ("updated_at", "retention", "size_bytes", "ready_versions", "latest_number", "namespace")),
    ):
        for column in columns:
            op.drop_column(table, column)


def _forget_collected() -> None:
    """Schema 0001 can't say that bytes are gone: a row would promise them to anybody who pushes them again."""
    for statement in (
        "DELETE FROM datasets WHERE removed_at IS NOT NULL "
        "AND NOT EXISTS (SELECT 1 FROM evaluations e WHERE e.dataset_digest = datasets.digest)",
        "DELETE FROM manifest_blobs WHERE sha256 IN (SELECT sha256 FROM blobs WHERE collected_at IS NOT NULL)",
        "DELETE FROM blobs WHERE collected_at IS NOT NULL "
        "AND NOT EXISTS (SELECT 1 FROM datasets d WHERE d.digest = blobs.sha256)",
    ):
        op.execute(statement)


def _add_columns() -> None:
    for table in ("adapters", "jobs", "evaluations"):
        op.add_column(table, sa.Column("namespace", sa.String(length=64), nullable=False, server_default="-"))
    op.add_column("adapters", sa.Column("latest_number", sa.Integer(), nullable=True))
    op.add_column("adapters", sa.Column("ready_versions", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("adapters", sa.Column("size_bytes", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("adapters", sa.Column("retention", sa.JSON(), nullable=True))
    op.add_column(
        "adapters", sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False, server_default=_EPOCH)
    )
    op.add_column("alias_moves", sa.Column("kind", sa.String(length=10), nullable=False, server_default="set"))
    op.add_column("blobs", sa.Column("facts", sa.JSON(), nullable=True))
    op.add_column("blobs", sa.Column("collected_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("datasets", sa.Column("removed_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("manifests", sa.Column("collected_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("tokens", sa.Column("created_by", sa.String(length=100), nullable=False, server_default=""))
    op.add_column("uploads", sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("versions", sa.Column("unknown", sa.JSON(), nullable=False, server_default="[]"))
    op.add_column("versions", sa.Column("moved_at", sa.DateTime(timezone=True), nullable=False, server_default=_EPOCH))


def _create_tables() -> None:
    op.create_table(
        "alias_protections",
        sa.Column("scope", sa.String(length=129), nullable=False),
        sa.Column("alias", sa.String(length=64), nullable=False),
        sa.Column("created_by", sa.String(length=100), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("scope", "alias", name=op.f("pk_alias_protections")),
    )
    op.create_table(
        "audit_entries",
        sa.Column("pk", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.String(length=100), nullable=False),
        sa.Column("token_id", sa.String(length=32), nullable=True),
        sa.Column("action", sa.String(length=40), nullable=False),
        sa.Column("namespace", sa.String(length=64), nullable=False),
        sa.Column("subject", sa.String(length=300), nullable=False),
        sa.Column("before", sa.JSON(), nullable=True),
        sa.Column("after", sa.JSON(), nullable=True),
        sa.PrimaryKeyConstraint("pk", name=op.f("pk_audit_entries")),
    )
    op.create_table(
        "keyed_requests",
        sa.Column("owner", sa.String(length=64), nullable=False),
        sa.Column("key", sa.String(length=200), nullable=False),
        sa.Column("request_digest", sa.String(length=64), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("body", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("owner", "key", name=op.f("pk_keyed_requests")),
    )
    op.create_table(
        "quotas",
        sa.Column("namespace", sa.String(length=64), nullable=False),
        sa.Column("max_adapters", sa.Integer(), nullable=True),
        sa.Column("max_bytes", sa.BigInteger(), nullable=True),
        sa.Column("max_jobs", sa.Integer(), nullable=True),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("namespace", name=op.f("pk_quotas")),
    )
    op.create_table(
        "grants",
        sa.Column("token_id", sa.String(length=32), nullable=False),
        sa.Column("namespace", sa.String(length=64), nullable=False),
        sa.Column("role", sa.String(length=20), nullable=False),
        sa.ForeignKeyConstraint(
            ["token_id"], ["tokens.id"], name=op.f("fk_grants_token_id_tokens"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("token_id", "namespace", name=op.f("pk_grants")),
    )
    op.create_table(
        "manifest_access",
        sa.Column("manifest_digest", sa.String(length=64), nullable=False),
        sa.Column("namespace", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(
            ["manifest_digest"],
            ["manifests.digest"],
            name=op.f("fk_manifest_access_manifest_digest_manifests"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("manifest_digest", "namespace", name=op.f("pk_manifest_access")),
    )
    op.create_table(
        "dataset_access",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("namespace", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(
            ["digest"], ["datasets.digest"], name=op.f("fk_dataset_access_digest_datasets"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("digest", "namespace", name=op.f("pk_dataset_access")),
    )
    op.create_table(
        "evaluation_metrics",
        sa.Column("evaluation_id", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("value", sa.Float(), nullable=False),
        sa.Column("dataset_digest", sa.String(length=64), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("namespace", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(
            ["evaluation_id"], ["evaluations.id"], name=op.f("fk_evaluation_metrics_evaluation_id_evaluations")
        ),
        sa.PrimaryKeyConstraint("evaluation_id", "name", name=op.f("pk_evaluation_metrics")),
    )
    op.create_table(
        "version_documents",
        sa.Column("version_pk", sa.Integer(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("foreign", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["version_pk"], ["versions.pk"], name=op.f("fk_version_documents_version_pk_versions")),
        sa.PrimaryKeyConstraint("version_pk", name=op.f("pk_version_documents")),
    )
    op.create_table(
        "version_notes",
        sa.Column("pk", sa.Integer(), nullable=False),
        sa.Column("version_pk", sa.Integer(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("written_by", sa.String(length=100), nullable=False),
        sa.Column("written_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["version_pk"], ["versions.pk"], name=op.f("fk_version_notes_version_pk_versions")),
        sa.PrimaryKeyConstraint("pk", name=op.f("pk_version_notes")),
    )
    op.create_table(
        "version_tags",
        sa.Column("version_pk", sa.Integer(), nullable=False),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("value", sa.String(length=200), nullable=False),
        sa.ForeignKeyConstraint(["version_pk"], ["versions.pk"], name=op.f("fk_version_tags_version_pk_versions")),
        sa.PrimaryKeyConstraint("version_pk", "key", name=op.f("pk_version_tags")),
    )
    op.create_table(
        "version_targets",
        sa.Column("version_pk", sa.Integer(), nullable=False),
        sa.Column("module", sa.String(length=200), nullable=False),
        sa.ForeignKeyConstraint(["version_pk"], ["versions.pk"], name=op.f("fk_version_targets_version_pk_versions")),
        sa.PrimaryKeyConstraint("version_pk", "module", name=op.f("pk_version_targets")),
    )


def _fill() -> None:
    """Fill the new columns and tables with what follows from the old ones."""
    for statement in (
        "UPDATE adapters SET namespace = substr(name, 1, instr(name, '/') - 1) WHERE name LIKE '%/%'"
        if op.get_bind().dialect.name == "sqlite"
        else "UPDATE adapters SET namespace = split_part(name, '/', 1) WHERE name LIKE '%/%'",
        "UPDATE adapters SET latest_number = "
        "(SELECT max(number) FROM versions WHERE adapter_pk = adapters.pk AND state = 'ready')",
        "UPDATE adapters SET ready_versions = "
        "(SELECT count(*) FROM versions WHERE adapter_pk = adapters.pk AND state = 'ready')",
        "UPDATE adapters SET size_bytes = (SELECT coalesce(sum(m.size_bytes), 0) FROM versions v "
        "JOIN manifests m ON m.digest = v.manifest_digest WHERE v.adapter_pk = adapters.pk AND v.state <> 'deleted')",
        "UPDATE adapters SET updated_at = "
        "coalesce((SELECT max(created_at) FROM versions WHERE adapter_pk = adapters.pk), created_at)",
        "UPDATE versions SET moved_at = created_at",
        "INSERT INTO grants (token_id, namespace, role) SELECT id, '*', role FROM tokens WHERE role <> ''",
        "INSERT INTO manifest_access (manifest_digest, namespace) SELECT DISTINCT v.manifest_digest, a.namespace "
        "FROM versions v JOIN adapters a ON a.pk = v.adapter_pk "
        "WHERE v.manifest_digest IS NOT NULL AND v.state IN ('ready', 'archived', 'quarantined')",
        # Until now merged models were open to every reader, as the files of bases are.
        "INSERT INTO manifest_access (manifest_digest, namespace) "
        "SELECT digest, '*' FROM manifests WHERE kind <> 'adapter'",
        "INSERT INTO dataset_access (digest, namespace) SELECT digest, '-' FROM datasets",
        "INSERT INTO dataset_access (digest, namespace) SELECT DISTINCT o.dataset_digest, a.namespace "
        "FROM version_origins o JOIN versions v ON v.pk = o.version_pk JOIN adapters a ON a.pk = v.adapter_pk "
        "JOIN datasets d ON d.digest = o.dataset_digest WHERE a.namespace <> '-'",
    ):
        op.execute(statement)
    _fill_jobs()
    _fill_from_json()


def _fill_jobs() -> None:
    """A job belongs to the namespace that its subject begins with; an evaluation to its job's."""
    bind = op.get_bind()
    for job_id, subject in bind.execute(sa.text("SELECT id, subject FROM jobs WHERE subject LIKE '%/%'")).all():
        first = subject.split(" ")[0]
        if "/" in first and not first.startswith("base:"):
            bind.execute(
                sa.text("UPDATE jobs SET namespace = :namespace WHERE id = :id"),
                {"namespace": first.split("/")[0], "id": job_id},
            )
    op.execute("UPDATE evaluations SET namespace = (SELECT namespace FROM jobs WHERE jobs.id = evaluations.job_id)")


def _fill_from_json() -> None:
    bind = op.get_bind()
    tags, targets, metrics = [], [], []
    for pk, lora, tagged in bind.execute(sa.text("SELECT pk, lora, tags FROM versions")):
        tags += [{"version_pk": pk, "key": key[:64], "value": str(value)[:200]} for key, value in _json(tagged).items()]
        modules = {str(module)[:200] for module in _json(lora).get("target_modules", [])}
        targets += [{"version_pk": pk, "module": module} for module in sorted(modules)]
    scored = sa.text("SELECT id, dataset_digest, digest, namespace, metrics FROM evaluations WHERE digest IS NOT NULL")
    for row in bind.execute(scored):
        known = {"evaluation_id": row.id, "dataset_digest": row.dataset_digest, "digest": row.digest}
        metrics += [
            {**known, "namespace": row.namespace, "name": name[:100], "value": float(value)}
            for name, value in _json(row.metrics).items()
        ]
    for table, rows in (("version_tags", tags), ("version_targets", targets), ("evaluation_metrics", metrics)):
        if rows:
            columns = ", ".join(rows[0])
            values = ", ".join(f":{column}" for column in rows[0])
            bind.execute(sa.text(f"INSERT INTO {table} ({columns}) VALUES ({values})"), rows)  # noqa: S608 - names of ours


def _json(value: Any) -> dict[str, Any]:
    """SQLite returns JSON as text if it is queried without a type."""
    found = json.loads(value) if isinstance(value, str) else value
    return found if isinstance(found, dict) else {}


def _guard_audit() -> None:
    if op.get_bind().dialect.name == "sqlite":
        for verb in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER audit_entries_no_{verb.lower()} BEFORE {verb} ON audit_entries "
                "BEGIN SELECT RAISE(ABORT, 'the audit trail is only appended to'); END"
            )
        return
    op.execute(
        "CREATE FUNCTION refuse_audit_change() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'the audit trail is only appended to'; END $$"
    )
    op.execute(
        "CREATE TRIGGER audit_entries_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_entries "
        "FOR EACH STATEMENT EXECUTE FUNCTION refuse_audit_change()"
    )


def _unguard_audit() -> None:
    if op.get_bind().dialect.name == "sqlite":
        for verb in ("update", "delete"):
            op.execute(f"DROP TRIGGER audit_entries_no_{verb}")
        return
    op.execute("DROP TRIGGER audit_entries_append_only ON audit_entries")
    op.execute("DROP FUNCTION refuse_audit_change()")
