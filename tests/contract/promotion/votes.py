"""What tests of approvals share: who has given what, and what decisions say of it."""

from __future__ import annotations

from typing import Any

from contract.promotion.scene import Scene
from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.catalog.models import Adapter, Version
from registry.promotion.makers import Makers, makers_of
from sdk.schemas.approvals import ApprovalKind, ApprovalRequest, ApprovalView
from sdk.schemas.decisions import Decision, PromotionCheck


def request_of(adapter: str, number: int, kind: ApprovalKind = "approve", **said: Any) -> ApprovalRequest:
    """What somebody asks for."""
    return ApprovalRequest(adapter=adapter, alias="live", number=number, kind=kind, **said)


def give(
    scene: Scene, number: int, by: str, kind: ApprovalKind = "approve", *, name: str = "a", **said: Any
) -> ApprovalView:
    """Approve a version, or veto it."""
    request = request_of(scene.adapter(name), number, kind, **said)
    return scene.services.approvals.give(request=request, who=scene.who(by))


def version_of(session: Session, scene: Scene, number: int) -> Version:
    """The row of a version."""
    return session.scalars(
        select(Version).join(Adapter).where(Adapter.name == scene.adapter(), Version.number == number)
    ).one()


def makers(scene: Scene, number: int) -> Makers:
    """Who made a version."""
    with scene.services.db.read() as session:
        return makers_of(session, version_of(session, scene, number).digest, scene.space)


def listed(scene: Scene, by: str = "will") -> dict[str, str | None]:
    """Who has given what, and why it doesn't count."""
    page = scene.services.approvals.list(adapter=scene.adapter(), alias="live", who=scene.who(by))
    return {f"{view.created_by.partition(' ')[2]} {view.kind}": view.void for view in page.items}


def check(scene: Scene, number: int, by: str = "boss") -> Decision:
    asked = PromotionCheck(adapter=scene.adapter(), alias="live", number=number)
    return scene.services.gate.check(check=asked, who=scene.who(by))


def message(scene: Scene, number: int, by: str = "boss") -> str:
    """What a decision says of approvals."""
    (rule,) = check(scene, number, by).rules
    assert rule.kind == "approvals"
    return f"{rule.outcome}: {rule.message}"
