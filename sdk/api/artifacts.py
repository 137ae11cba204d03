"""Files: which of them the registry wants and where to send them, and where those of a manifest are."""

from __future__ import annotations

from sdk.api.transport import Transport
from sdk.names import segment
from sdk.schemas.artifacts import PartsRequest, Transfer, UploadRequest, UploadView


def begin_upload(transport: Transport, request: UploadRequest, *, namespace: str | None = None) -> UploadView:
    """Open a session for files, with space for them reserved in a namespace. Raises QuotaExceeded, NotAllowed."""
    return transport.call("POST", "/uploads", UploadView, body=request, params={"namespace": namespace})


def ask_parts(transport: Transport, upload: str, request: PartsRequest) -> list[Transfer]:
    """Ask where to send parts of a large file. Raises NotFound for a session that has ended."""
    return transport.call("POST", f"/uploads/{segment(upload)}/parts", list[Transfer], body=request)


def locate_files(transport: Transport, digest: str) -> list[Transfer]:
    """Return the locations of a manifest's files. Raises NotFound."""
    return transport.call("GET", f"/manifests/{segment(digest)}/files", list[Transfer])
