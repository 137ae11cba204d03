"""Writing and reading the audit trail."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.access.models import AuditEntry
from registry.db.database import Database
from registry.db.paging import Paged, page_of
from registry.db.statements import append
from registry.db.stored_json import view_of
from registry.principal import Principal
from sdk.schemas.access import AuditView


def record(
    session: Session,
    who: Principal,
    action: str,
    namespace: str,
    subject: str,
    *,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
) -> None:
    """Append a change to the trail, in the transaction that makes it."""
    entry = {
        "actor": who.name,
        "token_id": who.token_id,
        "action": action,
        "namespace": namespace,
        "subject": subject[:300],
        "before": None if before is None else dict(before),
        "after": None if after is None else dict(after),
    }
    append(session, AuditEntry, entry)


class Audit:
    """The service that reads the trail."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def list(
        self,
        *,
        who: Principal,
        actor: str | None = None,
        token: str | None = None,
        action: str | None = None,
        subject: str | None = None,
        namespace: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        cursor: str | None = None,
        limit: int = 100,
    ) -> Paged[AuditView]:
        """Changes in the namespaces that the caller administers, newest first.

        `action` may end with `.*`; `subject` is exact, or the name of an adapter for all of its versions and aliases.
        """
        query = select(AuditEntry).where(who.within(AuditEntry.namespace, "admin"))
        asked = {"actor": actor, "token_id": token, "namespace": namespace}
        query = query.filter_by(**{name: value for name, value in asked.items() if value is not None})
        if action is not None and action.endswith(".*"):
            query = query.where(AuditEntry.action.startswith(action[:-1], autoescape=True))
        elif action is not None:
            query = query.where(AuditEntry.action == action)
        if subject is not None:
            of_adapter = AuditEntry.subject.startswith(f"{subject}@", autoescape=True)
            query = query.where((AuditEntry.subject == subject) | of_adapter)
        if since is not None:
            query = query.where(AuditEntry.at >= since)
        if until is not None:
            query = query.where(AuditEntry.at < until)
        with self._db.read() as session:
            return page_of(
                session,
                query,
                AuditEntry.pk,
                cursor=cursor,
                limit=limit,
                views=lambda rows: [view_of(AuditView, row, id=row.pk, token=row.token_id) for row in rows],
                newest_first=True,
            )
