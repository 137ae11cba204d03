"""Registering datasets, finding their bytes, giving them up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Unpack

from sqlalchemy import delete, select, true, update
from sqlalchemy.orm import Session

from registry.access.audit.service import record
from registry.artifacts.manifests import blob_of
from registry.artifacts.models import Blob
from registry.artifacts.service import Artifacts
from registry.artifacts.stored_blobs import hold_blobs
from registry.artifacts.uploads import finish_upload
from registry.datasets.finding import find_dataset, names_of, spoken_for, usable_by
from registry.datasets.models import Dataset, DatasetAccess, DatasetName, DatasetNumber
from registry.db.database import Database
from registry.db.paging import Paged, Paging, page_of
from registry.db.statements import insert_if_new
from registry.db.stored_json import view_of
from registry.db.types import utc_now
from registry.errors import Conflict, Forbidden, Invalid
from registry.principal import Principal
from registry.usage.charging import charge
from sdk.schemas.artifacts import DatasetRegistration, DatasetView, Transfer


class Datasets:
    """The service over the tables of datasets."""

    def __init__(self, db: Database, artifacts: Artifacts) -> None:
        self._db = db
        self._artifacts = artifacts

    def register(self, *, dataset: DatasetRegistration, who: Principal) -> DatasetView:
        """Record an uploaded dataset for the readers of a namespace; the same bytes again give the existing one.

        If the namespace has given the name to other rows before, it means these from now on, with the next number. What
        is said about the dataset counts in that namespace. Raises Forbidden if the caller may not write there,
        QuotaExceeded, and what `Artifacts.verify` does.
        """
        namespace = dataset.namespace or who.home()
        who.require("write", namespace)
        blob = blob_of(dataset.digest, dataset.size_bytes)
        self._artifacts.verify(upload=dataset.upload, blobs=[blob], who=who)
        with self._db.write() as session:
            hold_blobs(session)
            # A dataset that was given up may have been collected since the bytes were verified.
            stored = session.get(Blob, dataset.digest)
            if stored is None or stored.collected_at is not None:
                raise Conflict("the rows were removed while the dataset was being registered; add it again")
            insert_if_new(session, Dataset, digest=dataset.digest, size_bytes=dataset.size_bytes)
            session.get_one(Dataset, dataset.digest, with_for_update=True).removed_at = None
            finish_upload(session, dataset.upload)
            return self._open(session, dataset, namespace, who)

    def _open(self, session: Session, dataset: DatasetRegistration, namespace: str, who: Principal) -> DatasetView:
        """Let a namespace use a dataset under the name that it gives."""
        said = {
            "name": dataset.name,
            "format": dataset.format,
            "rows": dataset.rows,
            "shape": dataset.shape,
            "columns": dataset.columns,
            "created_by": who.name,
            "created_at": utc_now(),
        }
        opened = insert_if_new(session, DatasetAccess, digest=dataset.digest, namespace=namespace, **said)
        row = session.get_one(DatasetAccess, (dataset.digest, namespace))
        if row.removed_at is not None:
            for name, value in said.items():
                setattr(row, name, value)
            row.removed_at, opened = None, True
        elif not opened:
            row.name = row.name or dataset.name
            if dataset.columns is not None or dataset.native:
                # Rows are read by what was said about them last.
                row.columns, row.shape = dataset.columns, dataset.shape
        session.flush()
        number, named = _number(session, row, dataset.name) if dataset.name else (None, False)
        if opened:
            charge(session, namespace, datasets=dataset.size_bytes)
        if opened or named:
            record(session, who, "dataset.register", namespace, dataset.digest, after={"name": dataset.name})
        session.flush()
        return _present(row, names_of(session, [row]), shown=(dataset.name, number) if dataset.name else None)

    def list(self, *, who: Principal, **page: Unpack[Paging]) -> Paged[DatasetView]:
        """The datasets that the caller may use, newest first; if several namespaces have one, it is shown as the first
        of them has it.
        """
        query = select(DatasetAccess).where(usable_by(who), spoken_for(who))

        def views(rows: Sequence[DatasetAccess]) -> list[DatasetView]:
            names = names_of(session, rows)
            return [_present(row, names) for row in rows]

        with self._db.read() as session:
            return page_of(session, query, DatasetAccess.created_at, DatasetAccess.digest, views=views, **page)

    def get(self, name: str, *, namespace: str | None, who: Principal) -> DatasetView:
        """Return a dataset by digest or name; a name is looked up in `namespace` first. Raises NotFound, Invalid."""
        with self._db.read() as session:
            found = find_dataset(session, name, who, prefer=namespace)
            names = names_of(session, [found.row])
            return _present(found.row, names, shown=None if found.name is None else (found.name, found.number))

    def locate(self, name: str, *, namespace: str | None = None, who: Principal) -> Transfer:
        """Say where to fetch the rows of a dataset from; with `namespace`, of one that this namespace has. Raises NotFound,
        Invalid.
        """
        with self._db.read() as session:
            row = find_dataset(session, name, who, only=namespace).row.dataset
        return self._artifacts.locate(row.digest, row.size_bytes)

    def remove(self, name: str, *, namespace: str | None = None, only_name: bool = False, who: Principal) -> None:
        """Give up a dataset's rows in a namespace, or else in every one where the caller may write; versions that were
        trained on it still name it. With `only_name`, the rows stay: they lose the name in each namespace in which they have others.

        Once no namespace has it, the next collection removes its bytes. Raises NotFound, Invalid, also for `only_name` with a digest,
        Forbidden, Conflict for the only name.
        """
        now = utc_now()
        with self._db.write() as session:
            meant = find_dataset(session, name, who, only=namespace)
            # A request that gives it up in another namespace at the same moment waits here: one of the two is the last.
            dataset = session.get_one(Dataset, meant.row.digest, with_for_update=True)
            left = (DatasetAccess.digest == dataset.digest, DatasetAccess.removed_at.is_(None))
            there = true() if namespace is None else DatasetAccess.namespace == namespace
            if only_name:
                if meant.name is None:
                    raise Invalid(
                        "a digest means the rows by all their names; give the one to remove as NAME@vN",
                        param="only_name",
                    )
                rows = session.scalars(
                    select(DatasetAccess).where(*left, there, who.within(DatasetAccess.namespace, "write"))
                ).all()
                if rows:
                    _unname(session, rows, meant.name, who)
                    return
            closed = session.execute(
                update(DatasetAccess)
                .where(*left, there, who.within(DatasetAccess.namespace, "write"))
                .values(removed_at=now)
                .returning(DatasetAccess.namespace, DatasetAccess.name)
            ).all()
            if not closed:
                raise Forbidden(
                    "this token may only read this dataset; use one with a role of: admin, promoter, writer"
                )
            if session.scalars(select(DatasetAccess.namespace).where(*left).limit(1)).first() is None:
                dataset.removed_at = now
            for row in closed:
                charge(session, row.namespace, datasets=-dataset.size_bytes)
                record(session, who, "dataset.remove", row.namespace, dataset.digest, before={"name": row.name})


def _unname(session: Session, rows: Sequence[DatasetAccess], name: str, who: Principal) -> None:
    """Take a name from a dataset in each namespace in which it has others, which must be one: whoever removes a name has been shown
    the others, and they may go at the same moment. Raises Conflict.
    """
    last: list[str] = []
    unnamed = 0
    for row in rows:
        given = select(DatasetNumber).filter_by(digest=row.digest, namespace=row.namespace)
        numbers = session.scalars(given.order_by(DatasetNumber.created_at, DatasetNumber.name)).all()
        others = [one.name for one in numbers if one.name != name]
        if len(others) == len(numbers):
            continue
        if not others:
            last.append(row.namespace)
            continue
        # The counter of the name stays, so that its number never means other rows.
        session.execute(
            delete(DatasetNumber).where(
                DatasetNumber.digest == row.digest,
                DatasetNumber.namespace == row.namespace,
                DatasetNumber.name == name,
            )
        )
        if row.name == name:
            row.name = others[0]
        record(session, who, "dataset.unname", row.namespace, row.digest, before={"name": name})
        unnamed += 1
    if last and not unnamed:
        raise Conflict(
            f"{name!r} is the only name of these rows in {last[0]!r}; remove the rows with: adapterctl data rm {rows[0].digest[:12]}"
        )


def _number(session: Session, row: DatasetAccess, name: str) -> tuple[int, bool]:
    """Return the number of a dataset under a name in its namespace, and whether it was given now."""
    key = {"namespace": row.namespace, "name": name}
    insert_if_new(session, DatasetName, **key, newest=0)
    # A request that gives the same name at the same moment waits here.
    counter = session.get_one(DatasetName, (row.namespace, name), with_for_update=True, populate_existing=True)
    has = select(DatasetNumber.number).filter_by(**key, digest=row.digest)
    if (number := session.scalars(has).first()) is not None:
        return number, False
    counter.newest += 1
    session.add(DatasetNumber(**key, number=counter.newest, digest=row.digest))
    session.flush()
    return counter.newest, True


def _present(
    row: DatasetAccess,
    names: Mapping[tuple[str, str], Sequence[DatasetNumber]],
    *,
    shown: tuple[str, int | None] | None = None,
) -> DatasetView:
    """Show a dataset by the requested name, or else by the last one that it was given."""
    given = names.get((row.digest, row.namespace), ())
    name, number = shown or next(((one.name, one.number) for one in given), ("", None))
    names_given = [f"{one.name}@v{one.number}" for one in given]
    return view_of(DatasetView, row, size_bytes=row.dataset.size_bytes, name=name, number=number, names=names_given)
