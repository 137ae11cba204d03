"""Retention rules and garbage collection."""

from __future__ import annotations

from typing import Annotated

from fastapi import Response

from registry.catalog.parameters import Adapter
from registry.http.routes import Admin, Reader, room, service
from registry.removal.service import Removal
from sdk.schemas.removal import GcReport, GcRequest, RetentionRule, RetentionView

router = room("", "removal")

RemovalDep = Annotated[Removal, service(Removal)]


@router.get("/retention")
def get_retention(adapter: Adapter, removal: RemovalDep, who: Reader) -> RetentionView:
    """Which versions of an adapter `gc` keeps."""
    return removal.retention(adapter, who=who)


@router.put("/retention")
def set_retention(adapter: Adapter, body: RetentionRule, removal: RemovalDep, who: Admin) -> RetentionView:
    """Set which versions of an adapter `gc` keeps."""
    return removal.set_retention(adapter, rule=body, who=who)


@router.delete("/retention", status_code=204, response_class=Response)
def clear_retention(adapter: Adapter, removal: RemovalDep, who: Admin) -> None:
    """Keep all versions of an adapter again."""
    removal.set_retention(adapter, rule=None, who=who)


@router.post("/gc")
def collect_garbage(body: GcRequest, removal: RemovalDep, who: Admin) -> GcReport:
    """Apply the retention rules, and remove what nothing refers to any more; a dry run only reports it."""
    return removal.collect(request=body, who=who)
