"""Datasets."""

from __future__ import annotations

from fastapi import APIRouter

from registry.http import ERRORS, Given, Reader, Writer
from sdk.schemas.artifacts import DatasetRegistration, DatasetView, Transfer

router = APIRouter(prefix="/api/v1/datasets", tags=["datasets"], responses=ERRORS)


@router.post("", status_code=201)
def register_dataset(body: DatasetRegistration, services: Given, who: Writer) -> DatasetView:
    """Record an uploaded dataset."""
    return services.datasets.register(dataset=body, by=who.name)


@router.get("")
def list_datasets(services: Given, who: Reader) -> list[DatasetView]:
    """All datasets, the newest first."""
    return services.datasets.list()


@router.get("/{digest}/file")
def locate_dataset(digest: str, services: Given, who: Reader) -> Transfer:
    """Say where the rows are fetched from."""
    return services.datasets.locate(digest)
