"""The scores of an evaluation by row: where their file is, reading it, and giving it up with a version."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from registry.artifacts.blob_lock import hold_blobs
from registry.artifacts.models import Blob
from registry.artifacts.service import Artifacts
from registry.catalog.models import Adapter, Version
from registry.catalog.versions.lifecycle import LIVE
from registry.db.clock import utc_now
from registry.db.database import Database
from registry.errors import NotFound, Verification
from registry.evaluations.models import Evaluation
from registry.principal import Principal
from registry.usage.charging import charge
from sdk.schemas.artifacts import Transfer
from sdk.schemas.evaluation import RowFile, RowScore
from sdk.schemas.row_file import RowFileError, read_rows


class EvaluationRows:
    """The service over the files of scores by row."""

    def __init__(self, db: Database, artifacts: Artifacts) -> None:
        self._db = db
        self._artifacts = artifacts

    def locate(self, ident: str, *, who: Principal) -> Transfer:
        """Say where the rows of an evaluation are fetched from. Raises NotFound."""
        return self._artifacts.locate(*self._find(ident, who))

    def read(self, ident: str, *, who: Principal) -> Iterator[RowScore]:
        """Yield the scores of each row of an evaluation, in the order of the rows; memory stays flat.

        Raises NotFound, and Verification where the bytes can't be read.
        """
        digest, _ = self._find(ident, who)
        with self._artifacts.reading(digest) as file:
            try:
                yield from read_rows(file)
            except RowFileError as error:
                raise Verification(f"the rows of the scores {ident[:64]!a} can't be read: {error}") from error

    def _find(self, ident: str, who: Principal) -> tuple[str, int]:
        query = select(Evaluation).where(Evaluation.id == ident, who.within(Evaluation.namespace))
        with self._db.read() as session:
            row = session.scalars(query).first()
            if row is None:
                raise NotFound(
                    f"there are no scores {ident[:64]!a}; list those of a version with: adapterctl evals list REF"
                )
            if row.rows_digest is None:
                raise NotFound(
                    f"the scores {row.id} have no rows: they are of an earlier release, or there was no room to store rows; "
                    "make them again with: adapterctl eval"
                )
            blob = session.get(Blob, row.rows_digest)
            if row.rows_removed_at is not None or blob is None or blob.collected_at is not None:
                raise NotFound(
                    f"the rows of the scores {row.id} were removed, as they are with the version; make them again with: adapterctl eval"
                )
            return blob.sha256, blob.size_bytes


def take_in(session: Session, namespace: str, file: RowFile) -> None:
    """Let a namespace pay for a file that was verified, which a record names from now on.

    Raises Verification if it was removed meanwhile; the commit QuotaExceeded.
    """
    hold_blobs(session)
    blob = session.get(Blob, file.digest)
    if blob is None or blob.collected_at is not None:
        raise Verification("the scores by row were removed while they were being recorded; hand them in again")
    charge(session, namespace, evaluations=blob.size_bytes)


def give_up(session: Session, version: Version) -> None:
    """Give the rows of a version's scores up once it was deleted, unless its namespace has another with the same bytes."""
    namespace = version.adapter.namespace
    others = (
        select(Version.pk)
        .join(Adapter, Adapter.pk == Version.adapter_pk)
        .where(Adapter.namespace == namespace, Version.digest == version.digest, Version.state.in_(LIVE))
    )
    if session.scalars(others.limit(1)).first() is not None:
        return
    kept = (Evaluation.rows_digest.is_not(None), Evaluation.rows_removed_at.is_(None))
    of = (Evaluation.namespace == namespace, Evaluation.digest == version.digest, *kept)
    given_up = update(Evaluation).where(*of).values(rows_removed_at=utc_now()).returning(Evaluation.rows_size_bytes)
    charge(session, namespace, evaluations=-sum(size or 0 for size in session.scalars(given_up)))
