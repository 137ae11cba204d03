"""Old entries of the audit trail, written to files before they leave the database."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from pathlib import Path

from sqlalchemy import func, select

from registry.access.audit.service import record
from registry.access.models import AuditEntry
from registry.db.database import Database
from registry.db.statements import insert_if_new
from registry.db.types import utc_now
from registry.errors import Unavailable
from registry.principal import EVERYWHERE, SYSTEM
from registry.removal.models import AuditExport
from sdk.whole_files import write_whole

#: How many entries one file has.
_MOST_EXPORTED = 20_000


def export_oldest(db: Database, folder: Path, before: datetime) -> bool:
    """Write the oldest entries that are due to one file; say whether there were any. Raises Unavailable."""
    with db.read() as session:
        # Entries have times by several servers' clocks: a file ends before the first entry that is too young, and skips
        # none.
        young = session.scalar(select(func.min(AuditEntry.pk)).where(AuditEntry.at >= before))
        query = select(AuditEntry) if young is None else select(AuditEntry).where(AuditEntry.pk < young)
        rows = session.scalars(query.order_by(AuditEntry.pk).limit(_MOST_EXPORTED)).all()
        content = "".join(_line(row) for row in rows).encode()
    if not rows:
        return False
    first, last = rows[0].pk, rows[-1].pk
    file = f"audit-{first:012d}-{last:012d}.jsonl"
    _keep(folder / file, content)
    export = {"first_pk": first, "last_pk": last, "entries": len(rows), "file": file}
    export |= {"sha256": hashlib.sha256(content).hexdigest()}
    with db.write() as session:
        if insert_if_new(session, AuditExport, **export, exported_at=utc_now()):
            record(session, SYSTEM, "audit.export", EVERYWHERE, file, after=export)
    return True


def last_exported(db: Database) -> int | None:
    """Return the key of the last entry that is in a file; None if there is none."""
    with db.read() as session:
        return session.scalar(select(func.max(AuditExport.last_pk)))


def _line(row: AuditEntry) -> str:
    values = {column.key: getattr(row, column.key) for column in AuditEntry.__table__.columns}
    values["at"] = row.at.isoformat()
    return json.dumps(values, ensure_ascii=False, sort_keys=True) + "\n"


def _keep(path: Path, content: bytes) -> None:
    """Write a whole file, and make sure that it is on the disk. Raises Unavailable."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_whole(path, content, durable=True, mode=0o600)
    except OSError as error:
        raise Unavailable(
            f"the audit trail can't be written to {path.parent} ({error.strerror}); nothing was removed. "
            "Set REGISTRY_AUDIT_FOLDER to a writable folder"
        ) from error
