"""Artifacts: where in storage a blob is, uploads in parts, warnings of admission, signatures.

Unfinished uploads belong to nobody and have to begin again: in the previous release, a digest was enough to rely on
somebody else's bytes.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Blobs that are stored already keep their names, which are only their digests."""
    op.add_column("blobs", sa.Column("stored_as", sa.String(97), nullable=False, server_default=""))
    op.execute("UPDATE blobs SET stored_as = sha256")
    op.add_column("uploads", sa.Column("owner", sa.String(120), nullable=False, server_default=""))
    op.add_column("upload_blobs", sa.Column("stored_as", sa.String(97), nullable=False, server_default=""))
    op.execute("UPDATE upload_blobs SET stored_as = sha256")
    op.add_column("upload_blobs", sa.Column("parts_id", sa.Text))
    op.create_table(
        "upload_parts",
        sa.Column("stored_as", sa.String(97), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("sha256", sa.String(64), nullable=False),
    )
    _let_the_release_before_write()
    op.add_column("versions", sa.Column("warnings", sa.JSON))
    op.create_table(
        "signatures",
        sa.Column("pk", sa.Integer, primary_key=True),
        sa.Column(
            "manifest_digest", sa.String(64), sa.ForeignKey("manifests.digest", ondelete="CASCADE"), nullable=False
        ),
        sa.Column("namespace", sa.String(64), nullable=False),
        sa.Column("key_id", sa.String(64), nullable=False),
        sa.Column("bundle", sa.Text, nullable=False),
        sa.Column("created_by", sa.String(100), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.UniqueConstraint(
            "manifest_digest", "namespace", "key_id", name="uq_signatures_manifest_digest_namespace_key_id"
        ),
    )


def _let_the_release_before_write() -> None:
    """Servers are replaced one by one: what the old ones store in the meantime is named only by its digest."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE FUNCTION name_by_digest() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN NEW.stored_as := NEW.sha256; RETURN NEW; END $$"
        )
        for table in ("blobs", "upload_blobs"):
            op.execute(
                f"CREATE TRIGGER {table}_name BEFORE INSERT ON {table} FOR EACH ROW "
                "WHEN (NEW.stored_as = '') EXECUTE FUNCTION name_by_digest()"
            )
        return
    for table in ("blobs", "upload_blobs"):
        op.execute(
            f"CREATE TRIGGER {table}_name AFTER INSERT ON {table} WHEN NEW.stored_as = '' "  # noqa: S608 - names of ours
            f"BEGIN UPDATE {table} SET stored_as = sha256 WHERE rowid = NEW.rowid; END"
        )


def downgrade() -> None:
    """Refused if a blob is stored under a name other than its digest: the previous release would not find it."""
    if op.get_bind().execute(sa.text("SELECT 1 FROM blobs WHERE stored_as <> sha256 LIMIT 1")).first():
        raise RuntimeError(
            "files were stored that the release before can't find; restore the backup of before the upgrade"
        )
    postgresql = op.get_bind().dialect.name == "postgresql"
    for table in ("blobs", "upload_blobs"):
        op.execute(f"DROP TRIGGER {table}_name" + (f" ON {table}" if postgresql else ""))
    if postgresql:
        op.execute("DROP FUNCTION name_by_digest")
    op.drop_table("signatures")
    op.drop_table("upload_parts")
    for table, column in (
        ("versions", "warnings"),
        ("upload_blobs", "parts_id"),
        ("upload_blobs", "stored_as"),
        ("uploads", "owner"),
        ("blobs", "stored_as"),
    ):
        op.drop_column(table, column)
