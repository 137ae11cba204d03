"""Datasets."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Response

from registry.http.routes import Cursor, Given, Limit, Reader, Writer, apart, room
from sdk.schemas.artifacts import DatasetRegistration, DatasetView, Transfer
from sdk.schemas.pages import Page

router = room("/datasets", "datasets")

Digest = Annotated[str, Path(max_length=200, description="Whole, 12 digits and more, or a name.")]


@router.post("", status_code=201)
async def register_dataset(body: DatasetRegistration, services: Given, who: Writer) -> DatasetView:
    """Record an uploaded dataset."""
    return await apart(services.datasets.register, dataset=body, who=who)


@router.get("")
def list_datasets(services: Given, who: Reader, cursor: Cursor = None, limit: Limit = 100) -> Page[DatasetView]:
    """The datasets that the caller may use, the newest first."""
    return services.datasets.list(cursor=cursor, limit=limit, who=who)


@router.get("/{digest}/file")
def locate_dataset(digest: Digest, services: Given, who: Reader) -> Transfer:
    """Say where the rows are fetched from."""
    return services.datasets.locate(digest, who=who)


@router.post("/{digest}/remove", status_code=204)
def remove_dataset(digest: Digest, services: Given, who: Writer) -> Response:
    """Give a dataset's rows up; what was trained on it still names it."""
    services.datasets.remove(digest, who=who)
    return Response(status_code=204)
