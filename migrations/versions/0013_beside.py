"""Completes what servers of the previous release write while they work next to this one's, until they are replaced.

They don't know that bases and datasets belong to namespaces, nor the order of checkpoints. What they have done can be
seen from their rows, and from the entries of the audit trail that they write in the same transaction.
"""

from __future__ import annotations

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

#: Whether an entry of the trail is about a base that a server of the previous release has moved: others name its id,
#: too.
_MOVED = "NEW.action = 'base.move' AND NEW.namespace = '*' AND {after_id} IS NULL"

#: By a trigger's name: when it fires, on which condition, and what it does. Braces stand for what an entry says in
#: JSON.
_TRIGGERS = {
    # A base without a row in `named_bases` belongs to everybody. Nothing about it was checked against bytes.
    "complete_base": (
        "AFTER INSERT ON audit_entries",
        "NEW.action = 'base.register' AND NEW.namespace = '*'",
        "INSERT INTO named_bases (namespace, base_pk, id, revision, location, manifest_digest, weights_digest, architecture,"
        " config, tensors, size_bytes, facts, created_by, created_at, named_at, edition)"
        " SELECT '*', b.pk, b.id, b.revision, b.location, b.manifest_digest, b.weights_digest, b.architecture,"
        " b.config, b.tensors, b.size_bytes, 'claimed', b.created_by, b.created_at, NEW.at, 0"
        " FROM bases b WHERE b.fingerprint = NEW.subject"
        " AND NOT EXISTS (SELECT 1 FROM named_bases n WHERE n.base_pk = b.pk AND n.namespace = '*')",
    ),
    # Files are set once. Those servers don't know what a namespace says about a base for itself.
    "complete_moved_base": (
        "AFTER INSERT ON audit_entries",
        _MOVED,
        "UPDATE named_bases SET location = {after_location}, edition = edition + 1,"
        " manifest_digest = coalesce(manifest_digest, {after_manifest})"
        " WHERE namespace = '*' AND base_pk = (SELECT b.pk FROM bases b WHERE b.fingerprint = NEW.subject)",
    ),
    # It says what the dataset was called there; the rest is what was first said about these bytes.
    "complete_dataset": (
        "AFTER INSERT ON audit_entries",
        "NEW.action = 'dataset.register'",
        "UPDATE dataset_access SET name = coalesce({after_name}, ''), created_by = NEW.actor, created_at = NEW.at,"
        " format = (SELECT d.format FROM datasets d WHERE d.digest = NEW.subject),"
        " rows = (SELECT d.rows FROM datasets d WHERE d.digest = NEW.subject),"
        " shape = (SELECT d.shape FROM datasets d WHERE d.digest = NEW.subject)"
        " WHERE digest = NEW.subject AND namespace = NEW.namespace AND format = ''",
    ),
    # Also if the row exists, and is left as it is.
    "reopen_dataset": (
        "BEFORE INSERT ON dataset_access",
        "NEW.format = ''",
        "UPDATE dataset_access SET removed_at = NULL"
        " WHERE digest = NEW.digest AND namespace = NEW.namespace AND removed_at IS NOT NULL",
    ),
    # For those servers a row means that a namespace has the dataset, even if it gave it up at a server of this release.
    "give_up_dataset": (
        "AFTER INSERT ON audit_entries",
        "NEW.action = 'dataset.remove'",
        "UPDATE datasets SET removed_at = NEW.at WHERE digest = NEW.subject AND removed_at IS NULL"
        " AND NOT EXISTS (SELECT 1 FROM dataset_access a WHERE a.digest = NEW.subject AND a.removed_at IS NULL)",
    ),
    "number_checkpoint": ("AFTER INSERT ON job_checkpoints", "NEW.seq = 0", None),
    # A training that starts over passes the same steps again.
    "number_checkpoint_again": ("AFTER UPDATE OF created_at ON job_checkpoints", "NEW.seq = OLD.seq", None),
}
_NUMBER = (
    "UPDATE job_checkpoints SET seq ="
    " (SELECT max(c.seq) + 1 FROM job_checkpoints c WHERE c.job_id = NEW.job_id)"
    " WHERE job_id = NEW.job_id AND step = NEW.step"
)


def upgrade() -> None:
    """Make the triggers."""
    sqlite = op.get_bind().dialect.name == "sqlite"
    says = "json_extract(NEW.\"after\", '$.{}')" if sqlite else "NEW.\"after\"->>'{}'"
    said = {f"after_{name}": says.format(name) for name in ("id", "location", "manifest", "name")}
    for name, (moment, condition, body) in _TRIGGERS.items():
        when, does = condition.format(**said), (body or _NUMBER).format(**said)
        if sqlite:
            op.execute(f"CREATE TRIGGER {name} {moment} WHEN {when} BEGIN {does}; END")
            continue
        op.execute(f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {does}; RETURN NEW; END $$")
        op.execute(f"CREATE TRIGGER {name} {moment} FOR EACH ROW WHEN ({when}) EXECUTE FUNCTION {name}()")


def downgrade() -> None:
    """Remove them; the previous release needs none."""
    sqlite = op.get_bind().dialect.name == "sqlite"
    for name, (moment, _, _) in reversed(_TRIGGERS.items()):
        table = moment.rpartition(" ")[2]
        op.execute(f"DROP TRIGGER {name}" if sqlite else f"DROP TRIGGER {name} ON {table}")
        if not sqlite:
            op.execute(f"DROP FUNCTION {name}()")
