"""The schema of the first release."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = None
branch_labels = None
depends_on = None

_IN_A_FILE = "EXISTS (SELECT 1 FROM audit_exports e WHERE OLD.pk BETWEEN e.first_pk AND e.last_pk)"
_SAYS = "the audit trail is only appended to"


def upgrade() -> None:
    """Make every table, and guard the audit trail."""
    op.create_table(
        "adapters",
        sa.Column("pk", sa.Integer, nullable=False),
        sa.Column("name", sa.String(129), nullable=False),
        sa.Column("namespace", sa.String(64), nullable=False, server_default="-"),
        sa.Column("last_number", sa.Integer, nullable=False),
        sa.Column("latest_number", sa.Integer),
        sa.Column("ready_versions", sa.Integer, nullable=False, server_default="0"),
        sa.Column("size_bytes", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("retention", sa.JSON),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False, server_default="1970-01-01 00:00:00+00:00"),
        sa.Column("created_by", sa.String(100), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("pk", name="pk_adapters"),
        sa.UniqueConstraint("name", name="uq_adapters_name"),
    )
    op.create_index("ix_adapters_namespace_name", "adapters", ["namespace", "name"])
    op.create_table(
        "alias_protections",
        sa.Column("scope", sa.String(129), nullable=False),
        sa.Column("alias", sa.String(64), nullable=False),
        sa.Column("created_by", sa.String(100), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("scope", "alias", name="pk_alias_protections"),
    )
    op.create_table(
        "audit_entries",
        sa.Column("pk", sa.BigInteger().with_variant(sa.Integer, "sqlite"), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.String(100), nullable=False),
        sa.Column("token_id", sa.String(32)),
        sa.Column("action", sa.String(40), nullable=False),
        sa.Column("namespace", sa.String(64), nullable=False),
        sa.Column("subject", sa.String(300), nullable=False),
        sa.Column("before", sa.JSON),
        sa.Column("after", sa.JSON),
        sa.PrimaryKeyConstraint("pk", name="pk_audit_entries"),
    )
    op.create_index("ix_audit_entries_action_pk", "audit_entries", ["action", "pk"])
    op.create_index("ix_audit_entries_actor_pk", "audit_entries", ["actor", "pk"])
    op.create_index("ix_audit_entries_namespace_pk", "audit_entries", ["namespace", "pk"])
    op.create_index("ix_audit_entries_subject_pk", "audit_entries", ["subject", "pk"])
    op.create_table(
        "audit_exports",
        sa.Column("first_pk", sa.BigInteger().with_variant(sa.Integer, "sqlite"), autoincrement=False, nullable=False),
        sa.Column("last_pk", sa.BigInteger, nullable=False),
        sa.Column("entries", sa.Integer, nullable=False),
        sa.Column("file", sa.Text, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("exported_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("first_pk"),
    )
    op.create_table(
        "blobs",
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("stored_as", sa.String(97), nullable=False, server_default=""),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("facts", sa.JSON),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("collected_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("sha256", name="pk_blobs"),
    )
    op.create_table(
        "daily_work",
        sa.Column("name", sa.String(40), nullable=False),
        sa.Column("begun_at_s", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "dataset_names",
        sa.Column("namespace", sa.String(64), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("newest", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("namespace", "name"),
    )
    op.create_table(
        "job_counters",
        sa.Column("name", sa.String(60), nullable=False),
        sa.Column("labels", sa.String(200), nullable=False),
        sa.Column("value", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("name", "labels"),
    )
    op.create_table(
        "job_sweepers",
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("since_s", sa.Float, nullable=False),
        sa.Column("swept_at_s", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "job_turns",
        sa.Column("queue", sa.String(10), nullable=False),
        sa.Column("namespace", sa.String(64), nullable=False),
        sa.Column("served_at_s", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("queue", "namespace"),
    )
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("namespace", sa.String(64), nullable=False, server_default="-"),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("subject", sa.String(300), nullable=False),
        sa.Column("request", sa.JSON, nullable=False),
        sa.Column("request_digest", sa.String(64), nullable=False),
        sa.Column("idempotency_key", sa.String(200)),
        sa.Column("submit_key", sa.String(200)),
        sa.Column("owner", sa.String(120)),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("queue", sa.String(10), nullable=False, server_default="gpu"),
        sa.Column("needs_device", sa.String(10), nullable=False, server_default="any"),
        sa.Column("needs_memory_bytes", sa.BigInteger),
        sa.Column("least_card_bytes", sa.BigInteger),
        sa.Column("least_machine_bytes", sa.BigInteger),
        sa.Column("forecast", sa.JSON),
        sa.Column("needs_release", sa.Integer, nullable=False, server_default="0"),
        sa.Column("needs_scorers", sa.Text),
        sa.Column("timeout_s", sa.Float),
        sa.Column("not_before_s", sa.Float),
        sa.Column("failures", sa.Integer, nullable=False, server_default="0"),
        sa.Column("retry_of", sa.String(32)),
        sa.Column("base_fingerprint", sa.String(64)),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("lease_until_s", sa.Float),
        sa.Column("worker", sa.String(200)),
        sa.Column("cancel_requested", sa.Boolean, nullable=False),
        sa.Column("progress", sa.JSON),
        sa.Column("reason", sa.String(40)),
        sa.Column("message", sa.Text),
        sa.Column("result", sa.JSON),
        sa.Column("record_bytes", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("result_bytes", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("events_bytes", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("created_by", sa.String(100), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True)),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
        sa.UniqueConstraint("created_by", "idempotency_key", name="uq_jobs_created_by_idempotency_key"),
    )
    op.create_index("ix_jobs_created_at", "jobs", ["created_at"])
    op.create_index("ix_jobs_kind_subject_state", "jobs", ["kind", "subject", "state"])
    op.create_index("ix_jobs_namespace_state", "jobs", ["namespace", "state"])
    op.create_index("ix_jobs_next", "jobs", ["state", "queue", "namespace", "priority", "created_at"])
    op.create_index("ix_jobs_state_priority_created_at", "jobs", ["state", "priority", "created_at"])
    op.create_index("uq_jobs_owner_submit_key", "jobs", ["owner", "submit_key"], unique=True)
    op.create_table(
        "keyed_requests",
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("key", sa.String(200), nullable=False),
        sa.Column("request_digest", sa.String(64), nullable=False),
        sa.Column("status", sa.Integer),
        sa.Column("body", sa.Text),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("is_long", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.PrimaryKeyConstraint("owner", "key", name="pk_keyed_requests"),
    )
    op.create_index("ix_keyed_requests_created_at", "keyed_requests", ["created_at"])
    op.create_index(
        "ix_keyed_requests_long",
        "keyed_requests",
        ["owner", "created_at"],
        sqlite_where=sa.text("is_long = 1"),
        postgresql_where=sa.text("is_long"),
    )
    op.create_table(
        "manifests",
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("collected_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("digest", name="pk_manifests"),
    )
    op.create_table(
        "quotas",
        sa.Column("namespace", sa.String(64), nullable=False),
        sa.Column("max_adapters", sa.Integer),
        sa.Column("max_bytes", sa.BigInteger),
        sa.Column("max_jobs", sa.Integer),
        sa.Column("max_record_bytes", sa.BigInteger),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("namespace", name="pk_quotas"),
    )
    op.create_table(
        "read_only",
        sa.Column("id", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("reason", sa.String(1000), nullable=False),
        sa.Column("set_by", sa.String(100), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "tokens",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("secret_sha256", sa.String(64), nullable=False),
        sa.Column("created_by", sa.String(100), nullable=False, server_default=""),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True)),
        sa.Column("revoked_at", sa.DateTime(timezone=True)),
        sa.Column("forgotten_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("id", name="pk_tokens"),
        sa.UniqueConstraint("secret_sha256", name="uq_tokens_secret_sha256"),
    )
    op.create_table(
        "upload_parts",
        sa.Column("stored_as", sa.String(97), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("stored_as", "number"),
    )
    op.create_table(
        "uploads",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("created_by", sa.String(100), nullable=False),
        sa.Column("owner", sa.String(120), nullable=False, server_default=""),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("namespace", sa.String(64), nullable=False, server_default="-"),
        sa.Column("reserved_bytes", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("record_bytes", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("id", name="pk_uploads"),
    )
    op.create_index("ix_uploads_namespace_expires_at", "uploads", ["namespace", "expires_at"])
    op.create_table(
        "usage",
        sa.Column("namespace", sa.String(64), nullable=False),
        sa.Column("adapters", sa.Integer, nullable=False, server_default="0"),
        sa.Column("versions_bytes", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("datasets_bytes", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("bases_bytes", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("merged_bytes", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("checkpoints_bytes", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("evaluations_bytes", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("reserved_bytes", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("records_bytes", sa.BigInteger, nullable=False, server_default="0"),
        sa.PrimaryKeyConstraint("namespace"),
    )
    op.create_table(
        "workers",
        sa.Column("owner", sa.String(120), nullable=False, server_default=""),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("device", sa.String(20), nullable=False),
        sa.Column("memory_bytes", sa.BigInteger, nullable=False),
        sa.Column("free_memory_bytes", sa.BigInteger, nullable=False),
        sa.Column("cached_bases", sa.JSON, nullable=False),
        sa.Column("shared_paths", sa.JSON, nullable=False),
        sa.Column("queues", sa.JSON, nullable=False, server_default='["gpu", "cpu"]'),
        sa.Column("draining", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("version", sa.String(40), nullable=False),
        sa.Column("scorers", sa.JSON(none_as_null=True)),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("owner", "name", name="pk_workers"),
    )
    op.create_table(
        "alias_moves",
        sa.Column("pk", sa.Integer, nullable=False),
        sa.Column("adapter_pk", sa.Integer, nullable=False),
        sa.Column("alias", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(10), nullable=False, server_default="set"),
        sa.Column("from_number", sa.Integer),
        sa.Column("to_number", sa.Integer),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("moved_by", sa.String(100), nullable=False),
        sa.Column("moved_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["adapter_pk"], ["adapters.pk"], name="fk_alias_moves_adapter_pk_adapters"),
        sa.PrimaryKeyConstraint("pk", name="pk_alias_moves"),
    )
    op.create_index("ix_alias_moves_adapter_pk_alias_pk", "alias_moves", ["adapter_pk", "alias", "pk"])
    op.create_table(
        "bases",
        sa.Column("pk", sa.Integer, nullable=False),
        sa.Column("id", sa.String(200), nullable=False),
        sa.Column("revision", sa.String(100)),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("weights_digest", sa.String(64), nullable=False),
        sa.Column("architecture", sa.String(200), nullable=False),
        sa.Column("location", sa.Text),
        sa.Column("config", sa.JSON, nullable=False),
        sa.Column("tensors", sa.JSON, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("manifest_digest", sa.String(64)),
        sa.Column("created_by", sa.String(100), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("derived_at", sa.DateTime(timezone=True)),
        sa.ForeignKeyConstraint(["manifest_digest"], ["manifests.digest"], name="fk_bases_manifest_digest_manifests"),
        sa.PrimaryKeyConstraint("pk", name="pk_bases"),
        sa.UniqueConstraint("fingerprint", name="uq_bases_fingerprint"),
    )
    op.create_index("ix_bases_id", "bases", ["id"])
    op.create_index("ix_bases_weights_digest", "bases", ["weights_digest"])
    op.create_table(
        "datasets",
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("removed_at", sa.DateTime(timezone=True)),
        sa.Column("format", sa.String(20), nullable=False),
        sa.Column("rows", sa.Integer),
        sa.Column("shape", sa.String(40)),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("created_by", sa.String(100), nullable=False),
        sa.ForeignKeyConstraint(["digest"], ["blobs.sha256"], name="fk_datasets_digest_blobs"),
        sa.PrimaryKeyConstraint("digest", name="pk_datasets"),
    )
    op.create_index("ix_datasets_created_at", "datasets", ["created_at"])
    op.create_index("ix_datasets_name", "datasets", ["name"])
    op.create_table(
        "grants",
        sa.Column("token_id", sa.String(32), nullable=False),
        sa.Column("namespace", sa.String(64), nullable=False),
        sa.Column("role", sa.String(20), nullable=False),
        sa.ForeignKeyConstraint(["token_id"], ["tokens.id"], name="fk_grants_token_id_tokens", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("token_id", "namespace", name="pk_grants"),
    )
    op.create_table(
        "job_attempts",
        sa.Column("job_id", sa.String(32), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("worker", sa.String(200), nullable=False),
        sa.Column("owner", sa.String(120)),
        sa.Column("deadline_s", sa.Float),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("reason", sa.String(40)),
        sa.Column("message", sa.Text),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "attempt"),
    )
    op.create_index("ix_job_attempts_finished_at", "job_attempts", ["finished_at"])
    op.create_table(
        "job_checkpoints",
        sa.Column("job_id", sa.String(32), nullable=False),
        sa.Column("step", sa.Integer, nullable=False),
        sa.Column("seq", sa.Integer, nullable=False, server_default="0"),
        sa.Column("total", sa.Integer, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("manifest_digest", sa.String(64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("report", sa.JSON, nullable=False),
        sa.Column("record_bytes", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("kept", sa.Boolean, nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True)),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["manifest_digest"], ["manifests.digest"]),
        sa.PrimaryKeyConstraint("job_id", "step"),
    )
    op.create_index("ix_job_checkpoints_expires_at", "job_checkpoints", ["expires_at"])
    op.create_index(
        "ix_job_checkpoints_kept",
        "job_checkpoints",
        ["job_id"],
        sqlite_where=sa.text("kept = 1"),
        postgresql_where=sa.text("kept"),
    )
    op.create_index("ix_job_checkpoints_manifest_digest", "job_checkpoints", ["manifest_digest"])
    op.create_table(
        "job_events",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), nullable=False),
        sa.Column("job_id", sa.String(32), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("state", sa.String(20)),
        sa.Column("progress", sa.JSON),
        sa.Column("message", sa.Text),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_job_events_job_id_jobs", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("seq", name="pk_job_events"),
    )
    op.create_index("ix_job_events_job_id_seq", "job_events", ["job_id", "seq"])
    op.create_table(
        "job_peaks",
        sa.Column("job_id", sa.String(32), nullable=False),
        sa.Column("device", sa.String(100), nullable=False),
        sa.Column("forecast_bytes", sa.BigInteger, nullable=False),
        sa.Column("measured_bytes", sa.BigInteger, nullable=False),
        sa.Column("parameters", sa.BigInteger),
        sa.Column("tokens", sa.BigInteger),
        sa.Column("train_s", sa.Float),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id"),
    )
    op.create_index("ix_job_peaks_device_at", "job_peaks", ["device", "at"])
    op.create_table(
        "manifest_access",
        sa.Column("manifest_digest", sa.String(64), nullable=False),
        sa.Column("namespace", sa.String(64), nullable=False),
        sa.ForeignKeyConstraint(
            ["manifest_digest"],
            ["manifests.digest"],
            name="fk_manifest_access_manifest_digest_manifests",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("manifest_digest", "namespace", name="pk_manifest_access"),
    )
    op.create_table(
        "manifest_blobs",
        sa.Column("manifest_digest", sa.String(64), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.ForeignKeyConstraint(
            ["manifest_digest"],
            ["manifests.digest"],
            name="fk_manifest_blobs_manifest_digest_manifests",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(["sha256"], ["blobs.sha256"], name="fk_manifest_blobs_sha256_blobs"),
        sa.PrimaryKeyConstraint("manifest_digest", "sha256", name="pk_manifest_blobs"),
    )
    op.create_index("ix_manifest_blobs_sha256", "manifest_blobs", ["sha256"])
    op.create_table(
        "signatures",
        sa.Column("pk", sa.Integer, nullable=False),
        sa.Column("manifest_digest", sa.String(64), nullable=False),
        sa.Column("namespace", sa.String(64), nullable=False),
        sa.Column("key_id", sa.String(64), nullable=False),
        sa.Column("bundle", sa.Text, nullable=False),
        sa.Column("created_by", sa.String(100), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["manifest_digest"], ["manifests.digest"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("pk"),
        sa.UniqueConstraint(
            "manifest_digest", "namespace", "key_id", name="uq_signatures_manifest_digest_namespace_key_id"
        ),
    )
    op.create_table(
        "upload_blobs",
        sa.Column("upload_id", sa.String(32), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("stored_as", sa.String(97), nullable=False, server_default=""),
        sa.Column("parts_id", sa.Text),
        sa.Column("reserved", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.ForeignKeyConstraint(
            ["upload_id"], ["uploads.id"], name="fk_upload_blobs_upload_id_uploads", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("upload_id", "sha256", name="pk_upload_blobs"),
    )
    op.create_index("ix_upload_blobs_sha256", "upload_blobs", ["sha256"])
    op.create_table(
        "dataset_access",
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("namespace", sa.String(64), nullable=False),
        sa.Column("name", sa.String(200), nullable=False, server_default=""),
        sa.Column("format", sa.String(20), nullable=False, server_default=""),
        sa.Column("rows", sa.Integer),
        sa.Column("shape", sa.String(40)),
        sa.Column("columns", sa.String(2000)),
        sa.Column("created_by", sa.String(100), nullable=False, server_default=""),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default="1970-01-01 00:00:00+00:00"),
        sa.Column("removed_at", sa.DateTime(timezone=True)),
        sa.ForeignKeyConstraint(
            ["digest"], ["datasets.digest"], name="fk_dataset_access_digest_datasets", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("digest", "namespace", name="pk_dataset_access"),
    )
    op.create_index("ix_dataset_access_created_at", "dataset_access", ["created_at"])
    op.create_index("ix_dataset_access_name_namespace", "dataset_access", ["name", "namespace"])
    op.create_index("ix_dataset_access_namespace", "dataset_access", ["namespace"])
    op.create_table(
        "dataset_numbers",
        sa.Column("namespace", sa.String(64), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("number", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["digest"], ["datasets.digest"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("namespace", "name", "number"),
        sa.UniqueConstraint("digest", "namespace", "name", name="uq_dataset_numbers_digest_namespace_name"),
    )
    op.create_index("ix_dataset_numbers_name", "dataset_numbers", ["name"])
    op.create_table(
        "dataset_signatures",
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("reading", sa.String(64), nullable=False),
        sa.Column("blob", sa.String(64)),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("refusal", sa.Text),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["blob"], ["blobs.sha256"]),
        sa.ForeignKeyConstraint(["digest"], ["datasets.digest"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("digest", "reading"),
    )
    op.create_index("ix_dataset_signatures_blob", "dataset_signatures", ["blob"])
    op.create_table(
        "evaluations",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("namespace", sa.String(64), nullable=False, server_default="-"),
        sa.Column("label", sa.String(300), nullable=False),
        sa.Column("digest", sa.String(64)),
        sa.Column("base_fingerprint", sa.String(64), nullable=False),
        sa.Column("dataset_digest", sa.String(64), nullable=False),
        sa.Column("grader", sa.String(40), nullable=False),
        sa.Column("precision", sa.String(20), nullable=False),
        sa.Column("spec", sa.JSON, nullable=False),
        sa.Column("metrics", sa.JSON, nullable=False),
        sa.Column("samples", sa.JSON, nullable=False),
        sa.Column("libraries", sa.JSON, nullable=False),
        sa.Column("spec_digest", sa.String(64)),
        sa.Column("rows_digest", sa.String(64)),
        sa.Column("rows_size_bytes", sa.BigInteger),
        sa.Column("scorer_errors", sa.JSON(none_as_null=True)),
        sa.Column("contamination", sa.JSON(none_as_null=True)),
        sa.Column("rows_removed_at", sa.DateTime(timezone=True)),
        sa.Column("job_id", sa.String(32), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("record_bytes", sa.BigInteger, nullable=False, server_default="0"),
        sa.ForeignKeyConstraint(["dataset_digest"], ["datasets.digest"], name="fk_evaluations_dataset_digest_datasets"),
        sa.ForeignKeyConstraint(["digest"], ["manifests.digest"], name="fk_evaluations_digest_manifests"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_evaluations_job_id_jobs"),
        sa.PrimaryKeyConstraint("id", name="pk_evaluations"),
    )
    op.create_index("ix_evaluations_base_fingerprint", "evaluations", ["base_fingerprint"])
    op.create_index("ix_evaluations_dataset_digest", "evaluations", ["dataset_digest"])
    op.create_index("ix_evaluations_digest", "evaluations", ["digest"])
    op.create_index("ix_evaluations_job_id", "evaluations", ["job_id"])
    op.create_index("ix_evaluations_rows_digest", "evaluations", ["rows_digest"])
    op.create_index(
        "ix_evaluations_unchecked",
        "evaluations",
        ["created_at"],
        sqlite_where=sa.text("contamination IS NULL"),
        postgresql_where=sa.text("contamination IS NULL"),
    )
    op.create_table(
        "named_bases",
        sa.Column("pk", sa.Integer, nullable=False),
        sa.Column("namespace", sa.String(64), nullable=False),
        sa.Column("base_pk", sa.Integer, nullable=False),
        sa.Column("id", sa.String(200), nullable=False),
        sa.Column("revision", sa.String(100)),
        sa.Column("location", sa.Text),
        sa.Column("manifest_digest", sa.String(64)),
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
        sa.Column("record_bytes", sa.BigInteger, nullable=False, server_default="0"),
        sa.ForeignKeyConstraint(["base_pk"], ["bases.pk"]),
        sa.ForeignKeyConstraint(["manifest_digest"], ["manifests.digest"]),
        sa.PrimaryKeyConstraint("pk"),
        sa.UniqueConstraint("namespace", "base_pk", name="uq_named_bases_namespace_base_pk"),
    )
    op.create_index("ix_named_bases_base_pk", "named_bases", ["base_pk"])
    op.create_index("ix_named_bases_id_namespace", "named_bases", ["id", "namespace"])
    op.create_index("ix_named_bases_manifest_digest", "named_bases", ["manifest_digest"])
    op.create_table(
        "versions",
        sa.Column("pk", sa.Integer, nullable=False),
        sa.Column("adapter_pk", sa.Integer, nullable=False),
        sa.Column("number", sa.Integer),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("manifest_digest", sa.String(64)),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("base_pk", sa.Integer, nullable=False),
        sa.Column("base_id", sa.String(200), nullable=False, server_default=""),
        sa.Column("base_revision", sa.String(100)),
        sa.Column("base_weights_digest", sa.String(64), nullable=False, server_default=""),
        sa.Column("base_architecture", sa.String(200), nullable=False, server_default=""),
        sa.Column("lora", sa.JSON, nullable=False),
        sa.Column("rank", sa.Integer, nullable=False),
        sa.Column("method", sa.String(20), nullable=False),
        sa.Column("quantization", sa.JSON),
        sa.Column("tags", sa.JSON, nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("refusal", sa.Text),
        sa.Column("warnings", sa.JSON),
        sa.Column("unknown", sa.JSON, nullable=False, server_default="[]"),
        sa.Column("created_by", sa.String(100), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("moved_at", sa.DateTime(timezone=True), nullable=False, server_default="1970-01-01 00:00:00+00:00"),
        sa.Column("record_bytes", sa.BigInteger, nullable=False, server_default="0"),
        sa.ForeignKeyConstraint(["adapter_pk"], ["adapters.pk"], name="fk_versions_adapter_pk_adapters"),
        sa.ForeignKeyConstraint(["base_pk"], ["bases.pk"], name="fk_versions_base_pk_bases"),
        sa.ForeignKeyConstraint(
            ["manifest_digest"], ["manifests.digest"], name="fk_versions_manifest_digest_manifests"
        ),
        sa.PrimaryKeyConstraint("pk", name="pk_versions"),
        sa.UniqueConstraint("adapter_pk", "number", name="uq_versions_adapter_pk_number"),
    )
    op.create_index("ix_versions_base_pk_rank_pk", "versions", ["base_pk", "rank", "pk"])
    op.create_index("ix_versions_created_at", "versions", ["created_at"])
    op.create_index("ix_versions_created_by_pk", "versions", ["created_by", "pk"])
    op.create_index("ix_versions_digest", "versions", ["digest"])
    op.create_index("ix_versions_rank_pk", "versions", ["rank", "pk"])
    op.create_index("ix_versions_state_pk", "versions", ["state", "pk"])
    op.create_index(
        "uq_versions_live_digest",
        "versions",
        ["adapter_pk", "digest"],
        unique=True,
        sqlite_where=sa.text("state IN ('pending', 'ready', 'quarantined', 'archived')"),
        postgresql_where=sa.text("state IN ('pending', 'ready', 'quarantined', 'archived')"),
    )
    op.create_table(
        "aliases",
        sa.Column("adapter_pk", sa.Integer, nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("version_pk", sa.Integer, nullable=False),
        sa.Column("moved_by", sa.String(100), nullable=False),
        sa.Column("moved_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["adapter_pk"], ["adapters.pk"], name="fk_aliases_adapter_pk_adapters"),
        sa.ForeignKeyConstraint(["version_pk"], ["versions.pk"], name="fk_aliases_version_pk_versions"),
        sa.PrimaryKeyConstraint("adapter_pk", "name", name="pk_aliases"),
    )
    op.create_index("ix_aliases_name_version_pk", "aliases", ["name", "version_pk"])
    op.create_index("ix_aliases_version_pk", "aliases", ["version_pk"])
    op.create_table(
        "evaluation_metrics",
        sa.Column("evaluation_id", sa.String(32), nullable=False),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("value", sa.Float, nullable=False),
        sa.Column("dataset_digest", sa.String(64), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("namespace", sa.String(64), nullable=False),
        sa.ForeignKeyConstraint(
            ["evaluation_id"], ["evaluations.id"], name="fk_evaluation_metrics_evaluation_id_evaluations"
        ),
        sa.PrimaryKeyConstraint("evaluation_id", "name", name="pk_evaluation_metrics"),
    )
    op.create_index(
        "ix_evaluation_metrics_dataset_digest_name_value", "evaluation_metrics", ["dataset_digest", "name", "value"]
    )
    op.create_index("ix_evaluation_metrics_digest_name", "evaluation_metrics", ["digest", "name"])
    op.create_table(
        "version_datasets",
        sa.Column("version_pk", sa.Integer, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("weight", sa.Double()),
        sa.ForeignKeyConstraint(["version_pk"], ["versions.pk"]),
        sa.PrimaryKeyConstraint("version_pk", "digest"),
    )
    op.create_index("ix_version_datasets_digest", "version_datasets", ["digest"])
    op.create_table(
        "version_documents",
        sa.Column("version_pk", sa.Integer, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("foreign", sa.Boolean, nullable=False),
        sa.ForeignKeyConstraint(["version_pk"], ["versions.pk"], name="fk_version_documents_version_pk_versions"),
        sa.PrimaryKeyConstraint("version_pk", name="pk_version_documents"),
    )
    op.create_table(
        "version_notes",
        sa.Column("pk", sa.Integer, nullable=False),
        sa.Column("version_pk", sa.Integer, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("written_by", sa.String(100), nullable=False),
        sa.Column("written_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["version_pk"], ["versions.pk"], name="fk_version_notes_version_pk_versions"),
        sa.PrimaryKeyConstraint("pk", name="pk_version_notes"),
    )
    op.create_index("ix_version_notes_version_pk", "version_notes", ["version_pk"])
    op.create_table(
        "version_origins",
        sa.Column("pk", sa.Integer, nullable=False),
        sa.Column("version_pk", sa.Integer, nullable=False),
        sa.Column("job", sa.String(32)),
        sa.Column("attempt", sa.Integer),
        sa.Column("dataset_digest", sa.String(64)),
        sa.Column("dataset", sa.JSON),
        sa.Column("training", sa.JSON),
        sa.Column("metrics", sa.JSON, nullable=False),
        sa.Column("libraries", sa.JSON, nullable=False),
        sa.Column("reported", sa.JSON),
        sa.Column("created_by", sa.String(100), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["version_pk"], ["versions.pk"], name="fk_version_origins_version_pk_versions"),
        sa.PrimaryKeyConstraint("pk", name="pk_version_origins"),
    )
    op.create_index("ix_version_origins_dataset_digest", "version_origins", ["dataset_digest"])
    op.create_index("ix_version_origins_job", "version_origins", ["job"])
    op.create_index("ix_version_origins_version_pk", "version_origins", ["version_pk"])
    op.create_table(
        "version_parents",
        sa.Column("version_pk", sa.Integer, nullable=False),
        sa.Column("parent_pk", sa.Integer, nullable=False),
        sa.Column("relation", sa.String(20), nullable=False),
        sa.Column("weight", sa.Double()),
        sa.ForeignKeyConstraint(["parent_pk"], ["versions.pk"], name="fk_version_parents_parent_pk_versions"),
        sa.ForeignKeyConstraint(["version_pk"], ["versions.pk"], name="fk_version_parents_version_pk_versions"),
        sa.PrimaryKeyConstraint("version_pk", "parent_pk", "relation", name="pk_version_parents"),
    )
    op.create_index("ix_version_parents_parent_pk", "version_parents", ["parent_pk"])
    op.create_table(
        "version_tags",
        sa.Column("version_pk", sa.Integer, nullable=False),
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("value", sa.String(200), nullable=False),
        sa.ForeignKeyConstraint(["version_pk"], ["versions.pk"], name="fk_version_tags_version_pk_versions"),
        sa.PrimaryKeyConstraint("version_pk", "key", name="pk_version_tags"),
    )
    op.create_index("ix_version_tags_key_value_version_pk", "version_tags", ["key", "value", "version_pk"])
    op.create_table(
        "version_targets",
        sa.Column("version_pk", sa.Integer, nullable=False),
        sa.Column("module", sa.String(200), nullable=False),
        sa.ForeignKeyConstraint(["version_pk"], ["versions.pk"], name="fk_version_targets_version_pk_versions"),
        sa.PrimaryKeyConstraint("version_pk", "module", name="pk_version_targets"),
    )
    op.create_index("ix_version_targets_module_version_pk", "version_targets", ["module", "version_pk"])
    _guard_audit()


def _guard_audit() -> None:
    """Entries are never changed, and removed only once they are in a file."""
    if op.get_bind().dialect.name == "sqlite":
        for table, verb, condition in (
            ("audit_entries", "UPDATE", ""),
            ("audit_entries", "DELETE", f"WHEN NOT {_IN_A_FILE} "),
            ("audit_exports", "UPDATE", ""),
            ("audit_exports", "DELETE", ""),
        ):
            op.execute(
                f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
                f"{condition}BEGIN SELECT RAISE(ABORT, '{_SAYS}'); END"
            )
        return
    op.execute(
        "CREATE FUNCTION refuse_audit_change() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION '{_SAYS}'; END $$"
    )
    op.execute(
        "CREATE FUNCTION keep_audit_entries() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN IF {_IN_A_FILE} THEN RETURN OLD; END IF; RAISE EXCEPTION '{_SAYS}'; END $$"
    )
    op.execute(
        "CREATE TRIGGER audit_entries_in_a_file BEFORE DELETE ON audit_entries "
        "FOR EACH ROW EXECUTE FUNCTION keep_audit_entries()"
    )
    for table, verbs in (("audit_entries", "UPDATE OR TRUNCATE"), ("audit_exports", "UPDATE OR DELETE OR TRUNCATE")):
        op.execute(
            f"CREATE TRIGGER {table}_append_only BEFORE {verbs} ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_audit_change()"
        )


def downgrade() -> None:
    """Remove everything."""
    metadata = sa.MetaData()
    metadata.reflect(op.get_bind())
    metadata.remove(metadata.tables["alembic_version"])
    metadata.drop_all(op.get_bind())
    if op.get_bind().dialect.name == "postgresql":
        for function in ("refuse_audit_change", "keep_audit_entries"):
            op.execute(f"DROP FUNCTION {function}()")
