"""Compares the rows of evaluations with those that their targets were trained on, at once or in the background."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from registry.background import BackgroundWork
from registry.datasets.signatures import NotSigned, Reading, SignedDatasets, TooLongForNow
from registry.db.database import Database
from registry.db.stored_json import table
from registry.errors import Unavailable
from registry.evaluations.afterwards import POOL, one_at_a_time
from registry.evaluations.contamination.trained_on import trained_on
from registry.evaluations.models import Evaluation
from registry.jobs.models import Job
from registry.rows.process import Breach
from registry.rows.service import RowReading
from sdk.schemas.job_requests import EvaluationRequest
from sdk.schemas.scores import Contamination

#: What a worker waits for while it hands in scores: signatures of this many bytes, or rows of a sixteenth, half a
#: second's work.
_AT_ONCE_BYTES = 64 * 1000**2
#: How many scores one run in the background checks before it looks for others.
_PAGE = 100
#: What hears of a digest and of the namespace of its scores.
OnChecked = Callable[[Session, str, str], None]

_log = logging.getLogger(__name__)


class ContaminationChecks:
    """The service over what scores say about their contamination."""

    def __init__(
        self,
        db: Database,
        signed: SignedDatasets,
        reading: RowReading,
        *,
        in_background: bool = True,
        on_checked: OnChecked = lambda session, digest, namespace: None,
    ) -> None:
        """Without a sweeper, scores are checked while they are recorded, however long that takes.

        `on_checked` hears of the digest of those that were checked later, and whose they are, in the transaction that keeps what
        was found.
        """
        self._db = db
        self._signed = signed
        self._reading = reading
        self._at_once_bytes = _AT_ONCE_BYTES if in_background else None
        self._on_checked = on_checked
        self._background = BackgroundWork(
            POOL,
            one_at_a_time(self.check_all),
            name="contamination",
            failed="the rows of scores could not be checked",
            log=_log,
        )

    def look(
        self, request: EvaluationRequest, job_id: str, targets: Mapping[str, str | None]
    ) -> dict[str, Contamination]:
        """Return what can be found out at once about the scores of a job, by label; `targets` are digests by label.
        Never raises.
        """
        with self._db.read() as session:
            namespace = session.get_one(Job, job_id).namespace
        found = {}
        for label, digest in targets.items():
            try:
                found[label] = self._of(
                    label, digest, request.data, request.spec.columns, namespace, most=self._at_once_bytes
                )
            except TooLongForNow:
                continue
            except Exception as error:  # noqa: BLE001 - the scores are right without it, and the background tells of it
                _log.warning("the rows of %s will be checked later: %s", label, type(error).__name__, exc_info=error)
        return found

    def sweep(self) -> int:
        """Begin to check unchecked scores in the background; return 1 if there are any."""
        return self._background.begin(lambda: bool(self.unchecked(1)))

    def wait(self) -> None:
        """Wait for what `sweep` has begun."""
        self._background.wait()

    def check_all(self) -> int:
        """Check all unchecked scores; return how many. Raises Unavailable."""
        total = 0
        while idents := self.unchecked(_PAGE):
            for ident in idents:
                self._check(ident)
            total += len(idents)
        return total

    def unchecked(self, most: int) -> list[str]:
        """The scores that are to be checked next: one of each namespace after another, the newest of each first."""
        newest = Evaluation.created_at.desc()
        turn = func.row_number().over(partition_by=Evaluation.namespace, order_by=newest)
        query = select(Evaluation.id).where(Evaluation.contamination.is_(None)).order_by(turn, newest)
        with self._db.read() as session:
            return list(session.scalars(query.limit(most)))

    def _check(self, ident: str) -> None:
        with self._db.read() as session:
            row = session.get_one(Evaluation, ident)
            columns = table(row.spec).get("columns")
            digest, namespace = row.digest, row.namespace
            asked: tuple[Any, ...] = (row.label, digest, row.dataset_digest, columns, namespace)
        try:
            found = self._of(*asked)
        except (Unavailable, OSError):
            raise
        except Exception as error:  # noqa: BLE001 - else it would be looked at for ever
            _log.warning("the rows of the scores %s could not be checked", ident, exc_info=error)
            found = Contamination(not_checked=[f"the check failed ({type(error).__name__})"])
        with self._db.write() as session:
            of = (Evaluation.id == ident, Evaluation.contamination.is_(None))
            session.execute(update(Evaluation).where(*of).values(contamination=found.model_dump(mode="json")))
            if digest is not None:
                self._on_checked(session, digest, namespace)

    def _of(
        self, label: str, digest: str | None, dataset: str, columns: str | None, namespace: str, most: int | None = None
    ) -> Contamination:
        """Raises TooLongForNow beyond `most` bytes, Unavailable."""
        if digest is None:
            return Contamination(not_checked=["what a base was trained on is not known"])
        with self._db.read() as session:
            trained = trained_on(session, label, digest, namespace)
        if not trained.rows:
            return Contamination(not_checked=trained.unknown)
        with ExitStack() as stack:
            try:
                held = stack.enter_context(self._signed.opened(dataset, Reading(columns), most=most))
            except NotSigned as why:
                return Contamination(not_checked=[f"the rows that were scored: {why}"])
            files, names, unknown = [], [], list(trained.unknown)
            for (rows, reading), name in trained.rows.items():
                try:
                    files.append(stack.enter_context(self._signed.opened(rows, reading, most=most)))
                    names.append(name)
                except NotSigned as why:
                    unknown.append(f"the rows {name}: {why}")
            if not files:
                return Contamination(not_checked=unknown)
            try:
                counts = self._reading.among(held.path, [file.path for file in files])
            except Breach as why:
                return Contamination(not_checked=[*unknown, f"the comparison of the rows {why}"])
            return Contamination(of=list(dict.fromkeys(names)), not_checked=unknown, **counts)
