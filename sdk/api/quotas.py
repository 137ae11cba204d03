"""Quotas: how much a namespace may use."""

from __future__ import annotations

from sdk.api.transport import Transport
from sdk.schemas.access import QuotaLimits, QuotaView


def get(transport: Transport, namespace: str) -> QuotaView:
    """Return the limits of a namespace ("-": names without one), and how much of them is used."""
    return transport.call("GET", "/quotas", QuotaView, params={"namespace": namespace})


def set_limits(transport: Transport, namespace: str, limits: QuotaLimits) -> QuotaView:
    """Set the limits of a namespace. Raises NotAllowed."""
    return transport.call("PUT", "/quotas", QuotaView, body=limits, params={"namespace": namespace})
