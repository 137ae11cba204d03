"""Approvals of versions for an alias."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

from registry.http.routes import PageOf, Promoter, Reader, room, service
from registry.promotion.approvals import Approvals
from sdk.schemas.approvals import ApprovalRequest, ApprovalView, ApprovalWithdrawal
from sdk.schemas.wire import Page

router = room("/approvals", "promotion")

ApprovalsDep = Annotated[Approvals, service(Approvals)]


@router.post("", status_code=201)
def give_approval(body: ApprovalRequest, approvals: ApprovalsDep, who: Promoter) -> ApprovalView:
    """Approve a version for an alias, or veto it; what the token has given already is returned again."""
    return approvals.give(request=body, who=who)


@router.get("")
def list_approvals(
    approvals: ApprovalsDep,
    who: Reader,
    page: PageOf,
    adapter: Annotated[str, Query(max_length=129, examples=["team/code-review"])],
    alias: Annotated[str | None, Query(max_length=64, description="Only those for this alias.")] = None,
) -> Page[ApprovalView]:
    """The approvals and vetoes of an adapter's versions, newest first, and why some don't count."""
    return approvals.list(adapter=adapter, alias=alias, who=who, **page)


@router.post("/withdraw")
def withdraw_approval(body: ApprovalWithdrawal, approvals: ApprovalsDep, who: Promoter) -> ApprovalView:
    """Withdraw an approval or a veto of one's own; admins may withdraw any."""
    return approvals.withdraw(ident=body.id, who=who)
