"""Upload sessions, and locations of the files of a manifest."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query

from registry.artifacts.service import Artifacts
from registry.artifacts.uploads import Uploads
from registry.http.routes import Reader, Sender, room, service
from sdk.schemas.artifacts import PartsRequest, Transfer, UploadRequest, UploadView

router = room("", "artifacts")

UploadsDep = Annotated[Uploads, service(Uploads)]
ArtifactsDep = Annotated[Artifacts, service(Artifacts)]

Payer = Annotated[
    str | None,
    Query(
        min_length=1,
        max_length=64,
        description=(
            'The namespace it is sent for, against whose quota it counts: "-" for names without one, "*" for what is '
            "published for all. Left out: the first in which the caller may write, else the first in which it may send."
        ),
        examples=["team"],
    ),
]


@router.post("/uploads", status_code=201)
def begin_upload(body: UploadRequest, uploads: UploadsDep, who: Sender, namespace: Payer = None) -> UploadView:
    """Open an upload session, with space reserved for it; blobs that the caller may already read need not be sent."""
    return uploads.begin(blobs=body.blobs, who=who, namespace=namespace)


@router.post("/uploads/{upload}/parts")
def ask_parts(
    upload: Annotated[str, Path(max_length=64)], body: PartsRequest, uploads: UploadsDep, who: Sender
) -> list[Transfer]:
    """Return where to send parts of a large blob; the URLs are valid for minutes."""
    return uploads.ask_parts(upload=upload, sha256=body.sha256, parts=body.parts, who=who)


@router.get("/manifests/{digest}/files")
def locate_files(digest: Annotated[str, Path(max_length=64)], artifacts: ArtifactsDep, who: Reader) -> list[Transfer]:
    """Return where to fetch each file of a manifest from; the URLs are valid for minutes."""
    return artifacts.download(digest, who=who)
