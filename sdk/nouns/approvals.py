"""Approvals of versions for an alias, and vetoes."""

from __future__ import annotations

from sdk.api import promotion
from sdk.api.promotion import ApprovalRoutes
from sdk.names import check_alias, parse_ref
from sdk.objects import Registry
from sdk.schemas.promotion import ApprovalKind, ApprovalRequest, ApprovalView
from sdk.validation import build, require_numbered


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
