"""The audit trail."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import Query
from pydantic import AfterValidator, AwareDatetime, BeforeValidator

from registry.access.audit.service import Audit
from registry.http.routes import Admin, Cursor, Limit, room, service
from sdk.schemas.access import AuditView
from sdk.schemas.wire import Page

router = room("/audit", "people")

AuditDep = Annotated[Audit, service(Audit)]


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
    AwareDatetime, BeforeValidator(_written_out), AfterValidator(_in_utc), Query(examples=["2026-01-31T12:00:00Z"])
]


@router.get("")
def list_audit(
    audit: AuditDep,
    who: Admin,
    actor: Annotated[str | None, Query(max_length=100)] = None,
    token: Annotated[str | None, Query(max_length=64, description="A token's id, whatever its name.")] = None,
    action: Annotated[str | None, Query(max_length=40, description="Whole, or `alias.*`.")] = None,
    subject: Annotated[
        str | None, Query(max_length=300, description="The whole subject, or an adapter's name.")
    ] = None,
    namespace: Annotated[str | None, Query(max_length=64)] = None,
    since: Moment | None = None,
    until: Moment | None = None,
    cursor: Cursor = None,
    limit: Limit = 100,
) -> Page[AuditView]:
    """Every change in the namespaces that the caller administers, newest first."""
    return audit.list(
        who=who,
        actor=actor,
        token=token,
        action=action,
        subject=subject,
        namespace=namespace,
        since=since,
        until=until,
        cursor=cursor,
        limit=limit,
    )
