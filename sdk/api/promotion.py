"""Policies that an alias must fulfil before it moves, approvals, and decisions."""

from __future__ import annotations

import builtins

from sdk.api.aliases import JUDGING_S
from sdk.api.transport import Routes, Transport, pages
from sdk.given_values import build
from sdk.names import check_alias, check_name, segment
from sdk.notebook.table_list import TableList
from sdk.schemas.approvals import ApprovalRequest, ApprovalView, ApprovalWithdrawal
from sdk.schemas.decisions import Decision, PromotionCheck
from sdk.schemas.policies import PolicyRemoval, PolicySetting, PolicyView


def set_policy(transport: Transport, setting: PolicySetting) -> PolicyView:
    """Set a policy; the same one again is not a new version. Raises InvalidInput, NotFound, NotAllowed, Conflict."""
    return transport.call("PUT", "/policies", PolicyView, body=setting, timeout_s=JUDGING_S)


def give(transport: Transport, request: ApprovalRequest) -> ApprovalView:
    """Approve a version for an alias, or disapprove of it. Raises NotFound, NotAllowed, Conflict."""
    return transport.call("POST", "/approvals", ApprovalView, body=request)


def check(transport: Transport, question: PromotionCheck) -> Decision:
    """Decide whether an alias would move, without moving it. Raises NotFound, NotAllowed, Conflict, Unavailable."""
    return transport.call("POST", "/promotions/check", Decision, body=question, timeout_s=JUDGING_S)


class PolicyRoutes(Routes):
    """What can be asked about policies, and their end. Called, it lists those that stand."""

    def __call__(self, scope: str | None = None, alias: str | None = None) -> builtins.list[PolicyView]:
        """The policies that stand for an adapter, those of its namespace and of all (`*`) with it; or those of a scope, or all that
        you may see; optionally only for one alias.
        """
        params = {"scope": scope, "alias": None if alias is None else check_alias(alias)}
        return TableList(pages(self._transport, "/policies", PolicyView, params=params))

    list = __call__

    def history(self, scope: str, alias: str) -> builtins.list[PolicyView]:
        """The versions of a policy, newest first; that it was removed is one, too. Raises NotFound."""
        params = {"scope": scope, "alias": check_alias(alias)}
        return TableList(pages(self._transport, "/policies/history", PolicyView, params=params))

    def remove(self, scope: str, alias: str) -> None:
        """Remove a policy; its history stays. Raises NotFound, NotAllowed."""
        removal = build(PolicyRemoval, scope=scope, alias=alias)
        self._transport.call("POST", "/policies/remove", type(None), body=removal)


class ApprovalRoutes(Routes):
    """Approvals and vetoes. Called, it lists those of an adapter."""

    def __call__(self, adapter: str, alias: str | None = None) -> builtins.list[ApprovalView]:
        """The approvals and vetoes of an adapter's versions, newest first, also those that don't count; optionally for one alias.

        Raises NotFound.
        """
        params = {"adapter": check_name(adapter), "alias": None if alias is None else check_alias(alias)}
        return TableList(pages(self._transport, "/approvals", ApprovalView, params=params))

    list = __call__

    def withdraw(self, approval_id: str) -> ApprovalView:
        """Withdraw an approval or a veto of your own. Raises NotFound, NotAllowed."""
        withdrawal = build(ApprovalWithdrawal, id=approval_id)
        return self._transport.call("POST", "/approvals/withdraw", ApprovalView, body=withdrawal)


class DecisionRoutes(Routes):
    """Decisions about aliases. Called, it lists the last ones of an adapter."""

    def __call__(self, adapter: str, alias: str | None = None, *, limit: int = 50) -> builtins.list[Decision]:
        """The last `limit` decisions about an adapter's aliases, or one of them, newest first. Raises NotFound."""
        params = {"adapter": check_name(adapter), "alias": None if alias is None else check_alias(alias)}
        return TableList(pages(self._transport, "/decisions", Decision, params=params, limit=limit))

    list = __call__

    def get(self, decision_id: str) -> Decision:
        """A decision by its id. Raises NotFound."""
        return self._transport.call("GET", f"/decisions/{segment(decision_id)}", Decision)
