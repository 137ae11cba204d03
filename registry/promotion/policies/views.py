"""Policies of aliases."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query, Response

from registry.http.routes import Admin, PageOf, Reader, room, service
from registry.promotion.policies.service import Policies
from sdk.schemas.policies import PolicyRemoval, PolicySetting, PolicyView
from sdk.schemas.wire import Page

router = room("", "promotion")

PoliciesDep = Annotated[Policies, service(Policies)]
ScopeName = Annotated[str, Query(max_length=129, examples=["team/*"], description="An adapter, `NAMESPACE/*`, or `*`.")]
Alias = Annotated[str, Query(max_length=64, examples=["production"])]


@router.put("/policies")
def set_policy(body: PolicySetting, policies: PoliciesDep, who: Admin) -> PolicyView:
    """Set what must hold before an alias moves, for an adapter, a namespace or all; the same again changes nothing."""
    return policies.set(setting=body, who=who)


@router.get("/policies")
def list_policies(
    policies: PoliciesDep,
    who: Reader,
    page: PageOf,
    scope: Annotated[
        str | None,
        Query(max_length=129, description="Only those that hold for this adapter, or all adapters of this scope."),
    ] = None,
    alias: Alias | None = None,
) -> Page[PolicyView]:
    """The policies that stand, by alias, the widest scope first."""
    return policies.list(scope=scope, alias=alias, who=who, **page)


@router.get("/policies/history")
def list_policy_history(
    scope: ScopeName, alias: Alias, policies: PoliciesDep, who: Reader, page: PageOf
) -> Page[PolicyView]:
    """All versions of a policy, its removals included, newest first."""
    return policies.history(scope=scope, alias=alias, who=who, **page)


@router.post("/policies/remove", status_code=204, response_class=Response)
def remove_policy(body: PolicyRemoval, policies: PoliciesDep, who: Admin) -> None:
    """End a policy; its history stays."""
    policies.remove(removal=body, who=who)
