"""Retention rules and garbage collection."""

from __future__ import annotations

from sdk.api.transport import Transport
from sdk.schemas.removal import GcReport, GcRequest, RetentionRule, RetentionView

#: A collection goes through everything that is stored.
_COLLECTING_S = 4 * 3600.0


def retention(transport: Transport, adapter: str) -> RetentionView:
    """Return which versions of an adapter garbage collection keeps. Raises NotFound."""
    return transport.call("GET", "/retention", RetentionView, params={"adapter": adapter})


def set_retention(transport: Transport, adapter: str, rule: RetentionRule) -> RetentionView:
    """Set which versions of an adapter garbage collection keeps. Raises NotFound, NotAllowed."""
    return transport.call("PUT", "/retention", RetentionView, body=rule, params={"adapter": adapter})


def clear_retention(transport: Transport, adapter: str) -> None:
    """Keep all versions of an adapter again. Raises NotFound, NotAllowed."""
    transport.call("DELETE", "/retention", type(None), params={"adapter": adapter})


def collect_garbage(transport: Transport, request: GcRequest) -> GcReport:
    """Remove everything that is kept neither by the rules nor by a name. Raises NotAllowed."""
    return transport.call("POST", "/gc", GcReport, body=request, timeout_s=_COLLECTING_S)
