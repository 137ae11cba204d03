"""Publishing versions."""

from __future__ import annotations

from typing import Annotated

from fastapi import Response

from registry.catalog.publishing.copying import Copies
from registry.catalog.publishing.publisher import Publisher
from registry.http.routes import Writer, apart, room, service, written
from sdk.schemas.catalog import Publication, Published, VersionCopy

router = room("", "catalog")

PublisherDep = Annotated[Publisher, service(Publisher)]


@router.post("/versions", status_code=201, response_model=Published)
async def publish_version(body: Publication, publisher: PublisherDep, who: Writer) -> Response:
    """Publish uploaded files as a version; the same manifest again gives the existing one."""
    return written(await apart(publisher.publish, publication=body, who=who), 201)


@router.post("/version/copy", status_code=201, response_model=Published)
async def copy_version(body: VersionCopy, copies: Annotated[Copies, service(Copies)], who: Writer) -> Response:
    """Make a version's bytes a version of another adapter, with the same past; again, it gives the existing one."""
    return written(await apart(copies.copy, copy=body, who=who), 201)
