"""The audit trail."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

from registry.access.audit.service import Audit, AuditQuery
from registry.http.routes import Admin, room, service
from sdk.schemas.access import AuditView
from sdk.schemas.wire import Page

router = room("/audit", "people")

AuditDep = Annotated[Audit, service(Audit)]


@router.get("")
def list_audit(audit: AuditDep, who: Admin, asked: Annotated[AuditQuery, Query()]) -> Page[AuditView]:
    """Every change in the namespaces that the caller administers, newest first."""
    return audit.list(asked, who=who)
