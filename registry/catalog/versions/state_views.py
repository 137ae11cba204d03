"""What changes a version that is there: notes, archiving, deleting."""

from __future__ import annotations

from typing import Annotated

from registry.catalog.versions.lifecycle import VersionState
from registry.catalog.versions.version_states import VersionStates
from registry.http.routes import Admin, Writer, room, service
from sdk.schemas.catalog import Annotation, VersionMove, VersionView

router = room("", "catalog")

VersionStatesDep = Annotated[VersionStates, service(VersionStates)]


@router.patch("/version")
def annotate_version(body: Annotation, states: VersionStatesDep, who: Writer) -> VersionView:
    """Add a description, tags or a note to a version."""
    return states.annotate(annotation=body, who=who)


@router.post("/version/archive")
def archive_version(body: VersionMove, states: VersionStatesDep, who: Writer) -> VersionView:
    """Hide a version from lists and `latest`; its number still finds it."""
    return states.move(body, VersionState.ARCHIVED, who=who)


@router.post("/version/restore")
def restore_version(body: VersionMove, states: VersionStatesDep, who: Writer) -> VersionView:
    """Bring an archived version back."""
    return states.move(body, VersionState.READY, who=who)


@router.post("/version/delete")
def delete_version(body: VersionMove, states: VersionStatesDep, who: Admin) -> VersionView:
    """Delete a version for good; its number stays taken."""
    return states.move(body, VersionState.DELETED, who=who)


@router.post("/version/release")
def release_version(body: VersionMove, states: VersionStatesDep, who: Admin) -> VersionView:
    """Release a quarantined version, with the next number."""
    return states.release(move=body, who=who)
