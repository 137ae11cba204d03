"""Upload sessions, and where the files of a manifest are."""

from __future__ import annotations

from fastapi import APIRouter

from registry.http import ERRORS, Given, Reader, Writer
from sdk.schemas.artifacts import Transfer, UploadRequest, UploadView

router = APIRouter(prefix="/api/v1", tags=["artifacts"], responses=ERRORS)


@router.post("/uploads", status_code=201)
def begin_upload(body: UploadRequest, services: Given, who: Writer) -> UploadView:
    """Open an upload session; blobs that are stored already need not be sent."""
    return services.artifacts.begin_upload(blobs=body.blobs, by=who.name)


@router.get("/manifests/{digest}/files")
def locate_files(digest: str, services: Given, who: Reader) -> list[Transfer]:
    """Say where each file of a manifest is fetched from; the URLs live for minutes."""
    return services.artifacts.download(digest)
