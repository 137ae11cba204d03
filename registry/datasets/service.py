"""Registering datasets and finding their bytes."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.artifacts.service import Artifacts, blob_of
from registry.datasets.models import Dataset
from registry.db import Database, insert_if_new
from registry.errors import NotFound
from sdk.schemas.artifacts import DatasetRegistration, DatasetView, Transfer


class Datasets:
    """The service over the table of datasets."""

    def __init__(self, db: Database, artifacts: Artifacts) -> None:
        self._db = db
        self._artifacts = artifacts

    def register(self, *, dataset: DatasetRegistration, by: str) -> DatasetView:
        """Record an uploaded dataset; the same bytes again give the existing one."""
        blob = blob_of(dataset.digest, dataset.size_bytes)
        self._artifacts.verify(upload=dataset.upload, blobs=[blob], by=by)
        with self._db.write() as session:
            insert_if_new(
                session,
                Dataset,
                digest=dataset.digest,
                size_bytes=dataset.size_bytes,
                format=dataset.format,
                rows=dataset.rows,
                shape=dataset.shape,
                name=dataset.name,
                created_by=by,
            )
            return _view(find_dataset(session, dataset.digest))

    def list(self) -> list[DatasetView]:
        """All datasets, the newest first."""
        with self._db.read() as session:
            return [_view(row) for row in session.scalars(select(Dataset).order_by(Dataset.created_at.desc()))]

    def locate(self, digest: str) -> Transfer:
        """Say where the rows of a dataset are fetched from. Raises NotFound."""
        with self._db.read() as session:
            row = find_dataset(session, digest)
        return self._artifacts.locate(row.digest, row.size_bytes)


def find_dataset(session: Session, digest: str) -> Dataset:
    """Return the dataset `digest`. Raises NotFound."""
    row = session.get(Dataset, digest)
    if row is None:
        raise NotFound(f"there is no dataset {digest[:12]}; add it with: adapterctl data add FILE", param="data")
    return row


def _view(row: Dataset) -> DatasetView:
    return DatasetView(
        digest=row.digest,
        size_bytes=row.size_bytes,
        format=row.format,
        rows=row.rows,
        shape=row.shape,
        name=row.name,
        created_at=row.created_at,
    )
