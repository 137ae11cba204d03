"""Who a client is to the registry."""

from __future__ import annotations

from sdk.api.transport import Transport
from sdk.schemas.access import Whoami


def whoami(transport: Transport) -> Whoami:
    """Return who this client is to the registry, and what it may do in which namespaces. Raises Unauthenticated."""
    return transport.call("GET", "/whoami", Whoami)
