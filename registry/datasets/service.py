"""Registering datasets, finding their bytes, giving them up."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from sqlalchemy import ColumnElement, delete, or_, select, true
from sqlalchemy.orm import Session

from registry.artifacts.manifests import blob_of
from registry.artifacts.models import Blob
from registry.artifacts.service import Artifacts
from registry.artifacts.uploads import finish_upload
from registry.audit.service import record
from registry.auth.principal import Principal
from registry.datasets.models import Dataset, DatasetAccess
from registry.db import Database, hold_blobs, insert_if_new, utc_now
from registry.errors import Conflict, Forbidden, Invalid, NotFound
from registry.paging import Paged, page_of
from sdk.schemas.artifacts import DatasetRegistration, DatasetView, Transfer


class Datasets:
    """The service over the table of datasets."""

    def __init__(self, db: Database, artifacts: Artifacts) -> None:
        self._db = db
        self._artifacts = artifacts

    def register(self, *, dataset: DatasetRegistration, who: Principal) -> DatasetView:
        """Record an uploaded dataset for the readers of a namespace; the same bytes again give the existing one.

        Raises Forbidden where the caller may not write there, and what `Artifacts.verify` does.
        """
        namespace = dataset.namespace or who.home()
        who.require("write", namespace, missing=f"there is no namespace {namespace!r} that this token may see")
        blob = blob_of(dataset.digest, dataset.size_bytes)
        self._artifacts.verify(upload=dataset.upload, blobs=[blob], who=who)
        with self._db.write() as session:
            hold_blobs(session)
            # A dataset that was given up may have been collected since the bytes were looked at.
            stored = session.get(Blob, dataset.digest)
            if stored is None or stored.collected_at is not None:
                raise Conflict("the rows were removed while the dataset was registered; add it again")
            insert_if_new(
                session,
                Dataset,
                digest=dataset.digest,
                size_bytes=dataset.size_bytes,
                format=dataset.format,
                rows=dataset.rows,
                shape=dataset.shape,
                name=dataset.name,
                created_by=who.name,
            )
            finish_upload(session, dataset.upload)
            opened = insert_if_new(session, DatasetAccess, digest=dataset.digest, namespace=namespace)
            row = session.get_one(Dataset, dataset.digest)
            if opened or row.removed_at is not None:
                row.removed_at = None
                record(session, who, "dataset.register", namespace, dataset.digest, after={"name": dataset.name})
            session.flush()
            return _view(row)

    def list(self, *, cursor: str | None, limit: int, who: Principal) -> Paged[DatasetView]:
        """The datasets that the caller may use, the newest first."""
        query = select(Dataset).where(Dataset.removed_at.is_(None), visible_to(who))

        def views(rows: Sequence[Dataset]) -> list[DatasetView]:
            return [_view(row) for row in rows]

        with self._db.read() as session:
            return page_of(
                session,
                query,
                Dataset.created_at,
                Dataset.digest,
                cursor=cursor,
                limit=limit,
                views=views,
                newest_first=True,
            )

    def locate(self, digest: str, *, who: Principal) -> Transfer:
        """Say where the rows of a dataset are fetched from. Raises NotFound."""
        with self._db.read() as session:
            row = find_dataset(session, digest, who)
        return self._artifacts.locate(row.digest, row.size_bytes)

    def remove(self, digest: str, *, who: Principal) -> None:
        """Give a dataset's rows up in every namespace where the caller may write; what was trained on it still names it.

        Its bytes go with the next collection once no namespace has it. Raises NotFound, Forbidden.
        """
        with self._db.write() as session:
            row = find_dataset(session, digest, who)
            mine = (DatasetAccess.digest == row.digest, who.within(DatasetAccess.namespace, "write"))
            closed = session.scalars(delete(DatasetAccess).where(*mine).returning(DatasetAccess.namespace)).all()
            if not closed:
                raise Forbidden(
                    "this token may only read this dataset; use one with a role of: admin, promoter, writer"
                )
            left = select(DatasetAccess.namespace).where(DatasetAccess.digest == row.digest).limit(1)
            if session.scalars(left).first() is None:
                row.removed_at = utc_now()
            for namespace in closed:
                record(session, who, "dataset.remove", namespace, row.digest, before={"name": row.name})


def find_dataset(session: Session, digest: str, who: Principal) -> Dataset:
    """Return the dataset `digest` (whole, or 12 digits and more), or the newest of that name. Raises NotFound, Invalid."""
    query = select(Dataset).where(Dataset.removed_at.is_(None), visible_to(who))
    named = Dataset.name == digest
    if re.fullmatch(r"[0-9a-f]{12,64}", digest):
        named = or_(named, Dataset.digest.startswith(digest))
    rows = session.scalars(query.where(named).order_by(Dataset.created_at.desc()).limit(2)).all()
    if not rows:
        raise NotFound(f"there is no dataset {digest[:80]!a}; add it with: adapterctl data add FILE", param="data")
    if len(rows) > 1 and rows[0].name != digest:
        raise Invalid(f"{digest} fits more than one dataset; write more digits", param="data")
    return rows[0]


def readable_rows(session: Session, wanted: Collection[str], who: Principal) -> Collection[str]:
    """Those of these blobs that are datasets which the caller may use."""
    query = select(Dataset.digest).where(Dataset.digest.in_(wanted), Dataset.removed_at.is_(None), visible_to(who))
    return session.scalars(query).all()


def visible_to(who: Principal) -> ColumnElement[bool]:
    """The condition that a dataset is one that the caller may use."""
    if who.namespaces() is None:
        return true()
    return Dataset.digest.in_(select(DatasetAccess.digest).where(who.within(DatasetAccess.namespace)))


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
