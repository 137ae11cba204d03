"""Approvals of versions for an alias, and vetoes."""

from __future__ import annotations

from sdk.api import promotion
from sdk.api.access import TokensAPI
from sdk.api.promotion import ApprovalRoutes
from sdk.errors import NotFound
from sdk.given_values import build, require_numbered
from sdk.names import check_alias, parse_ref
from sdk.objects import Registry
from sdk.schemas.approvals import ApprovalKind, ApprovalRequest, ApprovalView


class ApprovalsAPI(ApprovalRoutes):
    """Approvals and vetoes. Called, it lists those of an adapter."""

    def __init__(self, registry: Registry) -> None:
        super().__init__(registry.transport)
        self._registry = registry

    def approve(self, ref: str, alias: str, *, reason: str = "") -> ApprovalView:
        """Approve of the bytes that `ref` names now for an alias of its adapter.

        Raises NotFound; NotAllowed for readers, writers, and whoever trained or pushed it; Conflict.
        """
        return self._give("approve", ref, alias, reason)

    def disapprove(self, ref: str, alias: str, *, reason: str = "") -> ApprovalView:
        """Keep an alias from moving to the bytes that `ref` names now, until this is withdrawn. Raises NotFound, NotAllowed."""
        return self._give("disapprove", ref, alias, reason)

    def given_by_you(self, kind: ApprovalKind, ref: str, alias: str) -> ApprovalView:
        """Your own approval, or veto, of the bytes that `ref` names now for an alias. Raises NotFound if there is none."""
        version, name = self._registry.get(ref), TokensAPI(self._registry.transport).whoami().name
        for view in self(parse_ref(ref).adapter, alias):
            if (view.kind, view.digest, view.created_by, view.withdrawn_at) == (kind, version.digest, name, None):
                return view
        what = "approval" if kind == "approve" else "veto"
        raise NotFound(
            f"you have given no {what} of {version.ref} for {alias}; an admin withdraws those of others with: "
            "adapterctl approvals withdraw ID"
        )

    def _give(self, kind: ApprovalKind, ref: str, alias: str, reason: str) -> ApprovalView:
        request = build(
            ApprovalRequest,
            adapter=parse_ref(ref).adapter,
            alias=check_alias(alias),
            number=require_numbered(ref, self._registry.get(ref).number),
            kind=kind,
            reason=reason,
        )
        return promotion.give(self._registry.transport, request)
