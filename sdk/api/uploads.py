"""Upload sessions: which files the registry wants, and where to send them."""

from __future__ import annotations

from sdk.api.transport import Transport
from sdk.names import segment
from sdk.schemas.artifacts import PartsRequest, Transfer, UploadRequest, UploadView


def begin(transport: Transport, request: UploadRequest, *, namespace: str | None = None) -> UploadView:
    """Open a session for files, with space for them reserved in a namespace. Raises QuotaExceeded, NotAllowed."""
    return transport.call("POST", "/uploads", UploadView, body=request, params={"namespace": namespace})


def ask_parts(transport: Transport, upload: str, request: PartsRequest) -> list[Transfer]:
    """Ask where to send parts of a large file. Raises NotFound for a session that has ended."""
    return transport.call("POST", f"/uploads/{segment(upload)}/parts", list[Transfer], body=request)
