"""Expiry of rows: daily work, tokens of which only the name is left, audit entries that are in a file."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_SAYS = "the audit trail is only appended to"
_IN_A_FILE = "EXISTS (SELECT 1 FROM audit_exports e WHERE OLD.pk BETWEEN e.first_pk AND e.last_pk)"


def upgrade() -> None:
    """Entries may be removed from the trail once a file has them; nothing else in it may change, as before."""
    op.create_table(
        "daily_work",
        sa.Column("name", sa.String(40), primary_key=True),
        sa.Column("begun_at_s", sa.Float, nullable=False),
    )
    op.create_table(
        "audit_exports",
        sa.Column(
            "first_pk", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=False
        ),
        sa.Column("last_pk", sa.BigInteger, nullable=False),
        sa.Column("entries", sa.Integer, nullable=False),
        sa.Column("file", sa.Text, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("exported_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.add_column("tokens", sa.Column("forgotten_at", sa.DateTime(timezone=True)))
    op.create_index("ix_job_attempts_finished_at", "job_attempts", ["finished_at"])
    if op.get_bind().dialect.name == "sqlite":
        op.execute("DROP TRIGGER audit_entries_no_delete")
        op.execute(
            "CREATE TRIGGER audit_entries_no_delete BEFORE DELETE ON audit_entries "
            f"WHEN NOT {_IN_A_FILE} BEGIN SELECT RAISE(ABORT, '{_SAYS}'); END"
        )
        for verb in ("update", "delete"):
            op.execute(
                f"CREATE TRIGGER audit_exports_no_{verb} BEFORE {verb.upper()} ON audit_exports "
                f"BEGIN SELECT RAISE(ABORT, '{_SAYS}'); END"
            )
        return
    op.execute("DROP TRIGGER audit_entries_append_only ON audit_entries")
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
    """The trail is append-only again; what is in files stays there."""
    if op.get_bind().dialect.name == "sqlite":
        op.execute("DROP TRIGGER audit_entries_no_delete")
        op.execute(
            "CREATE TRIGGER audit_entries_no_delete BEFORE DELETE ON audit_entries "
            f"BEGIN SELECT RAISE(ABORT, '{_SAYS}'); END"
        )
    else:
        op.execute("DROP TRIGGER audit_entries_in_a_file ON audit_entries")
        op.execute("DROP FUNCTION keep_audit_entries()")
        op.execute("DROP TRIGGER audit_entries_append_only ON audit_entries")
        op.execute(
            "CREATE TRIGGER audit_entries_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_entries "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_audit_change()"
        )
    op.drop_index("ix_job_attempts_finished_at", table_name="job_attempts")
    op.drop_column("tokens", "forgotten_at")
    op.drop_table("audit_exports")
    op.drop_table("daily_work")
