"""The scores of an evaluation by row: where their file is, reading it, and giving it up with a version or a base, or
for newer scores.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from sqlalchemy import ColumnElement, select, update
from sqlalchemy.orm import Session

from registry.artifacts.models import Blob
from registry.artifacts.service import Artifacts
from registry.artifacts.stored_blobs import hold_blobs
from registry.catalog.models import NamedBase
from registry.db.database import Database
from registry.db.stored_json import table
from registry.db.types import utc_now
from registry.errors import NotFound, Verification
from registry.evaluations.models import Evaluation
from registry.principal import EVERYWHERE, Principal
from registry.usage.charging import charge, record_bytes
from sdk.schemas.artifacts import Transfer
from sdk.schemas.evaluation import RowFile, is_score

#: Rows that exist, and count towards a quota.
_KEPT = (Evaluation.rows_digest.is_not(None), Evaluation.rows_removed_at.is_(None))


class EvaluationRows:
    """The service over the files of scores by row."""

    def __init__(self, db: Database, artifacts: Artifacts) -> None:
        self._db = db
        self._artifacts = artifacts

    def locate(self, ident: str, *, who: Principal) -> Transfer:
        """Say where to fetch the rows of an evaluation from. Raises NotFound."""
        return self._artifacts.locate(*self._find(ident, who))

    def copy(self, ident: str, target: Path, *, who: Principal) -> None:
        """Write the file of an evaluation's rows to one on this machine. Raises NotFound, Verification, Unavailable."""
        digest, _ = self._find(ident, who)
        self._artifacts.copy(digest, target)

    def size_of(self, ident: str, *, who: Principal) -> int:
        """Return how long the file of an evaluation's rows is, in bytes. Raises NotFound."""
        return self._find(ident, who)[1]

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
                    f"the scores {row.id} have no rows: there was no room to store them; "
                    "make them again with: adapterctl eval"
                )
            blob = session.get(Blob, row.rows_digest)
            if row.rows_removed_at is not None or blob is None or blob.collected_at is not None:
                raise NotFound(
                    f"the rows of the scores {row.id} were removed, as they are with the version or base, and once newer scores have "
                    "them; make them again with: adapterctl eval"
                )
            return blob.sha256, blob.size_bytes


def take_in(session: Session, namespace: str, file: RowFile) -> None:
    """Count a verified file, which a record names from now on, in a namespace.

    Raises Verification if it was removed in the meantime; the commit may raise QuotaExceeded.
    """
    hold_blobs(session)
    blob = session.get(Blob, file.digest)
    if blob is None or blob.collected_at is not None:
        raise Verification("the scores by row were removed while they were being recorded; hand them in again")
    charge(session, namespace, evaluations=blob.size_bytes)


def give_up(session: Session, namespace: str, digest: str) -> None:
    """Give up the rows and the samples of a namespace's scores of an adapter: nothing there has its bytes any more."""
    _give_up(session, Evaluation.namespace == namespace, Evaluation.digest == digest)
    _give_up_samples(session, namespace, digest)


def give_up_of_base(session: Session, base: NamedBase) -> None:
    """Give up the rows of a bare base's scores in each namespace that no longer has it after `base` was removed."""
    named = select(NamedBase.namespace).where(NamedBase.base_pk == base.base_pk, NamedBase.pk != base.pk)
    left = set(session.scalars(named))
    if EVERYWHERE in left:
        return
    of = (Evaluation.digest.is_(None), Evaluation.base_fingerprint == base.base.fingerprint)
    if base.namespace == EVERYWHERE:
        _give_up(session, *of, Evaluation.namespace.not_in(left))
    else:
        _give_up(session, *of, Evaluation.namespace == base.namespace)


def _give_up_samples(session: Session, namespace: str, digest: str) -> None:
    columns = (Evaluation.id, Evaluation.samples)
    sampled = select(*columns).where(Evaluation.namespace == namespace, Evaluation.digest == digest)
    rows = session.execute(sampled, execution_options={"yield_per": 10})
    freed = {row.id: record_bytes(row.samples) - record_bytes([]) for row in rows}
    for ident, size_bytes in freed.items():
        if size_bytes:
            less = {"samples": [], "record_bytes": Evaluation.record_bytes - size_bytes}
            session.execute(update(Evaluation).where(Evaluation.id == ident).values(less))
    charge(session, namespace, records=-sum(freed.values()))


def give_up_earlier(session: Session, newest: Evaluation) -> None:
    """Give up the rows that a newer evaluation replaces: those of the same target by earlier jobs under the same
    conditions, if the newest has all of their metrics, and their texts if they have any.

    The first that have a metric are kept: whether a version is promoted is decided by those, however often it is scored
    again. Two targets of one job may have the same bytes: neither is earlier than the other.
    """
    if newest.rows_digest is None:
        return
    alike = ("namespace", "digest", "base_fingerprint", "dataset_digest", "grader", "precision", "spec_digest")
    of = [getattr(Evaluation, name) == getattr(newest, name) for name in alike]
    earlier = select(Evaluation).where(*of, *_KEPT, Evaluation.job_id != newest.job_id)
    has, known, same = set(newest.metrics), set[str](), []
    for row in session.scalars(earlier.order_by(Evaluation.created_at, Evaluation.id)):
        scores = {name for name in row.metrics if is_score(name)}
        if scores <= known and scores <= has and (_has_texts(newest) or not _has_texts(row)):
            same.append(row.id)
        known |= scores
    if same:
        _give_up(session, Evaluation.id.in_(same))


def _has_texts(row: Evaluation) -> bool:
    return table(row.spec).get("keep_samples") != 0


def _give_up(session: Session, *of: ColumnElement[bool]) -> None:
    """Stop counting the rows of some scores in their namespaces; the next collection removes their files."""
    given_up = update(Evaluation).where(*of, *_KEPT).values(rows_removed_at=utc_now())
    sizes: Counter[str] = Counter()
    for namespace, size in session.execute(given_up.returning(Evaluation.namespace, Evaluation.rows_size_bytes)):
        sizes[namespace] += size or 0
    for namespace, size in sorted(sizes.items()):
        charge(session, namespace, evaluations=-size)
