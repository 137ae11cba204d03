"""What versions answer to fixed prompts, by which engines are proved to serve them."""

from __future__ import annotations

from sdk.api.transport import Transport
from sdk.errors import NotFound
from sdk.schemas.serving import ServedProbeRecord, ServedProbeView


def get(transport: Transport, ref: str) -> ServedProbeView:
    """Return it for the version that a ref names now. Raises InvalidName, InvalidRef, NotFound also if nobody has measured it."""
    return transport.call("GET", "/version/served-probe", ServedProbeView, params={"ref": ref})


def find(transport: Transport, ref: str) -> ServedProbeView | None:
    """Return the same; None if nobody has measured it. Raises InvalidName, InvalidRef."""
    try:
        return get(transport, ref)
    except NotFound:
        return None


def record(transport: Transport, measured: ServedProbeRecord) -> ServedProbeView:
    """Record what the caller measured, in the place of what the same token has recorded before.

    Raises NotFound, NotAllowed, InvalidInput.
    """
    return transport.call("PUT", "/version/served-probe", ServedProbeView, body=measured)
