"""Writing and reading the audit trail."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.access.models import AuditEntry
from registry.db.database import Database
from registry.db.paging import Cursor, Limit, Paged, page_of
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


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("this time is out of range; send a later or an earlier one") from None


def _written_out(text: str) -> str:
    """Refuse a bare number, which would be read as seconds since 1970."""
    if "T" not in text:
        raise ValueError("write the time as 2026-01-31T12:00:00Z")
    return text


Moment = Annotated[
    AwareDatetime, BeforeValidator(_written_out), AfterValidator(_in_utc), Field(examples=["2026-01-31T12:00:00Z"])
]


class AuditQuery(BaseModel):
    """Which changes are asked for, and which page of them."""

    actor: Annotated[str | None, Field(max_length=100)] = None
    token: Annotated[str | None, Field(max_length=64, description="A token's id, whatever its name.")] = None
    action: Annotated[str | None, Field(max_length=40, description="Whole, or `alias.*`.")] = None
    subject: Annotated[str | None, Field(max_length=300, description="The whole subject, or an adapter's name.")] = None
    namespace: Annotated[str | None, Field(max_length=64)] = None
    since: Moment | None = None
    until: Moment | None = None
    cursor: Cursor = None
    limit: Limit = 100


class Audit:
    """The service that reads the trail."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def list(self, asked: AuditQuery, *, who: Principal) -> Paged[AuditView]:
        """Changes in the namespaces that the caller administers, newest first.

        `action` may end with `.*`; `subject` is exact, or the name of an adapter for all of its versions and aliases.
        """
        query = select(AuditEntry).where(who.within(AuditEntry.namespace, "admin"))
        exact = {"actor": asked.actor, "token_id": asked.token, "namespace": asked.namespace}
        query = query.filter_by(**{name: value for name, value in exact.items() if value is not None})
        if (action := asked.action) is not None and action.endswith(".*"):
            query = query.where(AuditEntry.action.startswith(action[:-1], autoescape=True))
        elif action is not None:
            query = query.where(AuditEntry.action == action)
        if (subject := asked.subject) is not None:
            of_adapter = AuditEntry.subject.startswith(f"{subject}@", autoescape=True)
            query = query.where((AuditEntry.subject == subject) | of_adapter)
        if asked.since is not None:
            query = query.where(AuditEntry.at >= asked.since)
        if asked.until is not None:
            query = query.where(AuditEntry.at < asked.until)
        with self._db.read() as session:
            return page_of(
                session,
                query,
                AuditEntry.pk,
                cursor=asked.cursor,
                limit=asked.limit,
                views=lambda rows: [view_of(AuditView, row, id=row.pk, token=row.token_id) for row in rows],
            )
