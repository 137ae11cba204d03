"""Whom the registry takes a client for."""

from __future__ import annotations

from sdk.api.transport import Transport
from sdk.schemas.access import Whoami


def whoami(transport: Transport) -> Whoami:
    """Return who the registry takes this client for, and what it may do where. Raises Unauthenticated."""
    return transport.call("GET", "/whoami", Whoami)
