"""Rows of an evaluation for its readers: the lowest, highest and most changed ones, and all of them page by page.

What was picked is kept, with what the dataset asks and expects in these rows if the evaluation's namespace has it. Both are rows of a
dataset: they are shown as long as that namespace has it, and removed some time later, or with the file of the scores.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import ColumnElement, and_, delete, exists, func, or_, select
from sqlalchemy.orm import Session, undefer

from registry.artifacts.service import Artifacts
from registry.background import BackgroundWork
from registry.catalog.models import Adapter, Alias, Version, VersionParent
from registry.datasets.finding import is_given
from registry.datasets.models import Dataset, DatasetAccess
from registry.db.database import Database
from registry.db.stored_json import readable
from registry.db.types import utc_now
from registry.errors import Invalid, NotFound, RegistryError
from registry.evaluations.afterwards import POOL, one_at_a_time
from registry.evaluations.models import Evaluation, EvaluationPicks
from registry.evaluations.rows import EvaluationRows
from registry.evaluations.service import EvaluationQuery, Evaluations
from registry.evaluations.slicing import dataset_file
from registry.evaluations.standing import made_in, of_any_base, of_versions
from registry.principal import SYSTEM, Principal
from registry.rows.service import RowReading
from registry.usage.charging import charge, has_room_for_records, record_bytes
from sdk.formats.columns import parse_columns
from sdk.schemas.evaluation import MADE_OF_LOSS, UNDIVIDED_METRICS, WEIGHTED_METRICS, is_of_texts, is_score
from sdk.schemas.picked_rows import (
    MOST_PAGED_BYTES,
    MOST_PICKED_TEXT,
    MOST_SHOWN_TEXT,
    PAGE_ROWS,
    PickedRow,
    PickedRows,
    RowPage,
    ShownRow,
)
from sdk.schemas.scores import EvaluationView
from sdk.schemas.wire import digest_of

#: How many questions about one evaluation are kept: one for each metric and what it is compared with.
_MOST_KEPT = 32
#: How many evaluations can be compared with, and how many are looked at for this, the newest first.
_MOST_OTHERS, _MOST_READ = 20, 50
#: The name of the alias of the version that is in use.
_PRODUCTION = "production"
_REMOVED = "the dataset was removed, or is another namespace's"
#: Raised with each change after which the same question has another answer.
_RELEASE = 1
#: Rows of younger scores are picked before anybody asks; how many scores are looked for at once, and how many may fail.
_FRESH, _AT_ONCE, _MOST_UNKEPT = timedelta(days=1), 100, 1000
_log = logging.getLogger(__name__)


class Other(NamedTuple):
    """Scores that an evaluation can be compared with, row by row."""

    scores: EvaluationView
    #: What they are to it: "parent", "production" or "base".
    relation: str


@dataclass(frozen=True)
class PickQuestion:
    """Which rows of an evaluation are asked for."""

    scores: EvaluationView
    metric: str
    other: EvaluationView | None = None
    #: Only rows with this value in a column of the dataset.
    by: str | None = None
    value: str | None = None

    @property
    def question(self) -> str:
        """The key under which the answer is kept."""
        other = None if self.other is None else self.other.rows_digest
        return digest_of([_RELEASE, self.scores.rows_digest, self.metric, other, self.by, self.value])


class RowPicks:
    """The service over rows of evaluations that say most about their scores."""

    def __init__(
        self,
        db: Database,
        artifacts: Artifacts,
        evaluations: Evaluations,
        rows: EvaluationRows,
        reading: RowReading,
        *,
        may_write: Callable[[], bool] = lambda: True,
    ) -> None:
        """`may_write` says whether anything may be stored now."""
        self._db = db
        self._artifacts = artifacts
        self._evaluations = evaluations
        self._rows = rows
        self._reading = reading
        self._may_write = may_write
        self._background = BackgroundWork(
            POOL,
            one_at_a_time(self.pick_all),
            name="picking",
            failed="the rows of scores could not be picked",
            log=_log,
        )
        #: Scores of which no picked rows could be kept: they aren't tried again by this process.
        self._unkept: set[str] = set()

    def scores(self, ident: str, *, who: Principal) -> EvaluationView:
        """Return an evaluation by its id. Raises NotFound."""
        page = self._evaluations.list(EvaluationQuery(id=ident, limit=1), who=who)
        if not page.items:
            raise NotFound(
                f"there are no scores {ident[:64]!a}; list those of a version with: adapterctl evals list REF"
            )
        return page.items[0]

    def others(self, scores: EvaluationView, *, metric: str, who: Principal) -> list[Other]:
        """Return the scores that an evaluation can be compared with by a metric, made in its namespace: of the versions that it was
        made from, of the one in production, and of its bare base, in this order, of each the newest.
        """
        with self._db.read() as session:
            related = _related(session, scores)
        found: dict[str | None, Other] = {}
        conditions = [of_any_base(scores.base_fingerprint)] if scores.digest is not None else []
        if related:
            conditions.append(of_versions(((digest, scores.namespace) for digest in related), who))
        if not conditions:
            return []
        there = (Evaluation.dataset_digest == scores.dataset, Evaluation.rows_digest.is_not(None))
        made = and_(made_in(Evaluation, scores.namespace, who), Evaluation.rows_removed_at.is_(None), *there)
        for one in self._evaluations.all_of(and_(or_(*conditions), made), newest=_MOST_READ):
            if one.id != scores.id and one.key_of(metric) == scores.key_of(metric) and metric in one.metrics:
                relation = related.get(one.digest or "", "base")
                found[one.digest] = Other(one, relation)
        order = list(dict.fromkeys([*related.values(), "base"]))
        return sorted(found.values(), key=lambda other: order.index(other.relation))[:_MOST_OTHERS]

    def kept(self, asked: PickQuestion, *, who: Principal) -> PickedRows | None:
        """Return what was picked before, for what is asked; None if nothing was. Raises NotFound if the rows were removed."""
        self._rows.size_of(asked.scores.id, who=who)
        with self._db.read() as session:
            query = select(EvaluationPicks).options(undefer(EvaluationPicks.picked))
            row = session.scalars(query.filter_by(evaluation_id=asked.scores.id, question=asked.question)).first()
            found = None if row is None else readable(PickedRows, row.picked)
            if found is None:
                return None
            is_there = is_given(session, asked.scores.dataset, asked.scores.namespace)
        if is_there and found.without_texts == _REMOVED:
            # It was added again.
            return None
        return found if is_there else _without_texts(found)

    def pick(self, asked: PickQuestion, *, who: Principal) -> PickedRows:
        """Pick rows from the file of an evaluation, and keep them.

        Raises NotFound, Invalid for a metric or a column that rows don't have, InvalidData, Verification, Unavailable.
        """
        with tempfile.TemporaryDirectory(prefix="picked-") as folder, ExitStack() as stack:
            files = []
            for place, one in enumerate((asked.scores, asked.other)):
                if one is not None:
                    files.append((one.id, Path(folder) / f"scores-{place}"))
                    self._rows.copy(*files[-1], who=who)
            dataset, why = self._dataset(stack, asked.scores)
            if asked.by is not None and dataset is None:
                raise Invalid(f"rows can't be grouped by {asked.by[:80]!a}: {why}; leave it out", param="by")
            found = self._reading.picks(
                files[0],
                next(iter(files[1:]), None),
                metric=asked.metric,
                dataset=None if asked.by is None else dataset,
                by=asked.by,
                value=asked.value,
            )
            numbers = {one.row for one in (*found.low, *found.high, *found.changed)}
            texts, why = self._texts(asked.scores, dataset, numbers, why)
        found = found.model_copy(
            update={
                "without_texts": why,
                **{name: _with_texts(getattr(found, name), texts) for name in ("low", "high", "changed")},
            }
        )
        self._keep(asked, found)
        return found

    def page(self, ident: str, number: int, *, who: Principal) -> RowPage:
        """Return one page of all rows of an evaluation, counted from 1.

        Raises NotFound, Invalid for a file that is too large to be shown by pages, Verification, Unavailable.
        """
        scores, size_bytes = self.scores(ident, who=who), self._rows.size_of(ident, who=who)
        if size_bytes > MOST_PAGED_BYTES:
            raise Invalid(
                f"the file of these rows has {size_bytes} bytes, and {MOST_PAGED_BYTES} are shown by pages; fetch it with: adapterctl "
                f"evals show {ident} --rows"
            )
        first = (number - 1) * PAGE_ROWS
        with tempfile.TemporaryDirectory(prefix="paged-") as folder, ExitStack() as stack:
            path = Path(folder) / "scores"
            self._rows.copy(ident, path, who=who)
            rows, more = self._reading.page((ident, path), first=first, most=PAGE_ROWS)
            dataset, why = self._dataset(stack, scores, most_bytes=MOST_PAGED_BYTES) if rows else (None, None)
            texts, why = self._texts(scores, dataset, [row.row for row in rows], why)
        shown = [
            ShownRow(
                scored=row,
                prompt=_text(texts, row.row, 0, MOST_SHOWN_TEXT),
                reference=_text(texts, row.row, 1, MOST_SHOWN_TEXT),
            )
            for row in rows
        ]
        return RowPage(first=first, rows=shown, more=more, without_texts=why)

    def sweep(self) -> int:
        """Begin to pick rows of scores that were recorded lately, in the background; return 1 if there are any."""
        return self._background.begin(lambda: self._may_write() and bool(self.unpicked(1)))

    def wait(self) -> None:
        """Wait for what `sweep` has begun."""
        self._background.wait()

    def pick_all(self) -> int:
        """Pick rows of scores that were recorded lately; return of how many. Raises Unavailable."""
        total = 0
        while idents := self.unpicked(_AT_ONCE):
            total += len(idents)
            for ident in idents:
                # Until it is kept.
                self._unkept.add(ident)
                try:
                    self.pick(self.first_asked(self.scores(ident, who=SYSTEM), who=SYSTEM), who=SYSTEM)
                except RegistryError as error:
                    _log.info("no rows of the scores %s were picked: %s", ident, error.message)
            if len(self._unkept) > _MOST_UNKEPT:
                break
        return total

    def first_asked(self, scores: EvaluationView, *, who: Principal) -> PickQuestion:
        """Return what a page asks first: the first metric, compared with the first of `others`."""
        metric = first_metric(scores)
        other = next(iter(self.others(scores, metric=metric, who=who)), None)
        return PickQuestion(scores, metric, None if other is None else other.scores)

    def unpicked(self, most: int) -> list[str]:
        """The scores whose rows are to be picked next: one of each namespace after another, the newest of each first."""
        newest = Evaluation.created_at.desc()
        turn = func.row_number().over(partition_by=Evaluation.namespace, order_by=newest)
        picked = exists().where(EvaluationPicks.evaluation_id == Evaluation.id)
        there = (Evaluation.rows_digest.is_not(None), Evaluation.rows_removed_at.is_(None), ~picked)
        lately = Evaluation.created_at > utc_now() - _FRESH
        query = select(Evaluation.id).where(*there, lately).order_by(turn, newest).limit(most + len(self._unkept))
        with self._db.read() as session:
            return [ident for ident in session.scalars(query) if ident not in self._unkept][:most]

    def _dataset(
        self, stack: ExitStack, scores: EvaluationView, *, most_bytes: int | None = None
    ) -> tuple[Path | None, str | None]:
        """The file of an evaluation's dataset while the stack is open, or why it isn't read, as the rest of a sentence."""
        with self._db.read() as session:
            if not is_given(session, scores.dataset, scores.namespace):
                return None, _REMOVED
            size_bytes = session.get_one(Dataset, scores.dataset).size_bytes
        if most_bytes is not None and size_bytes > most_bytes:
            return None, f"the dataset has {size_bytes} bytes, and no more than {most_bytes} are read for this"
        try:
            return stack.enter_context(dataset_file(self._artifacts, scores.dataset, size_bytes)), None
        except RegistryError as error:
            return None, error.message

    def _texts(
        self, scores: EvaluationView, dataset: Path | None, numbers: Collection[int], why: str | None
    ) -> tuple[dict[int, tuple[str, str]], str | None]:
        """What is asked and expected in rows, by their numbers, or why that isn't known."""
        if dataset is None or not numbers:
            return {}, why
        columns = scores.conditions.get("columns")
        try:
            return self._reading.texts(dataset, parse_columns(columns) if columns else None, numbers), None
        except RegistryError as error:
            return {}, error.message

    def _keep(self, asked: PickQuestion, found: PickedRows) -> None:
        picked = found.model_dump(mode="json")
        of, size_bytes = asked.scores, record_bytes(picked)
        # A column has any number of values, and readers may ask for each.
        if asked.by is not None or not self._may_write():
            return
        with self._db.write() as session:
            row = session.get(Evaluation, of.id, with_for_update=True)
            if (
                row is None
                or row.rows_removed_at is not None
                or not has_room_for_records(session, of.namespace, size_bytes)
            ):
                return
            others = select(func.count()).select_from(EvaluationPicks).where(EvaluationPicks.evaluation_id == of.id)
            kept = session.get(EvaluationPicks, (of.id, asked.question))
            if kept is None and (session.scalar(others) or 0) >= _MOST_KEPT:
                return
            if kept is None:
                kept = EvaluationPicks(evaluation_id=of.id, question=asked.question, record_bytes=0)
                session.add(kept)
            charge(session, of.namespace, records=size_bytes - kept.record_bytes)
            kept.picked, kept.record_bytes, kept.created_at = picked, size_bytes, utc_now()
        self._unkept.discard(of.id)


def first_metric(scores: EvaluationView) -> str:
    """Return the metric by which rows are picked unless another is asked for: a score of texts, else of labels, else the loss."""
    found = metrics_of(scores)
    return next(
        (name for name in found if is_of_texts(name)),
        next((name for name in found if name not in MADE_OF_LOSS | {"loss"}), "loss"),
    )


def metrics_of(scores: EvaluationView) -> list[str]:
    """Return the metrics by which single rows of an evaluation have scores, as far as its report tells."""
    without = (
        UNDIVIDED_METRICS | (MADE_OF_LOSS - WEIGHTED_METRICS) | {"general_loss", "general_loss_base", "general_kl"}
    )
    return [name for name in scores.metrics if is_score(name) and name not in without]


def due_picks() -> ColumnElement[bool]:
    """The condition that what was picked is to be removed: the file was, or the namespace has given up the dataset."""
    held = exists().where(
        DatasetAccess.digest == Evaluation.dataset_digest,
        DatasetAccess.namespace == Evaluation.namespace,
        DatasetAccess.removed_at.is_(None),
    )
    return or_(Evaluation.rows_removed_at.is_not(None), ~held)


def remove_picks(session: Session, most: int) -> int:
    """Remove some of what is due, and count that in its namespaces; return how many."""
    of = select(
        EvaluationPicks.evaluation_id, EvaluationPicks.question, EvaluationPicks.record_bytes, Evaluation.namespace
    )
    due = of.join(Evaluation, Evaluation.id == EvaluationPicks.evaluation_id).where(due_picks()).limit(most)
    rows = session.execute(due).all()
    for row in rows:
        key = {"evaluation_id": row.evaluation_id, "question": row.question}
        session.execute(delete(EvaluationPicks).filter_by(**key))
        charge(session, row.namespace, records=-row.record_bytes)
    return len(rows)


def _related(session: Session, scores: EvaluationView) -> dict[str, str]:
    """Return the digests of the versions that an evaluated one is compared with, each with what it is to it."""
    if scores.digest is None:
        return {}
    of = select(Version.pk, Version.adapter_pk).join(Adapter, Adapter.pk == Version.adapter_pk)
    rows = session.execute(of.where(Version.digest == scores.digest, Adapter.namespace == scores.namespace)).all()
    parents = select(Version.digest).join(VersionParent, VersionParent.parent_pk == Version.pk)
    made_from = session.scalars(
        parents.where(VersionParent.version_pk.in_([row.pk for row in rows])).limit(_MOST_OTHERS)
    )
    found = dict.fromkeys(made_from, "parent")
    used = select(Version.digest).join(Alias, Alias.version_pk == Version.pk)
    used = used.where(Alias.name == _PRODUCTION, Version.adapter_pk.in_([row.adapter_pk for row in rows]))
    for digest in session.scalars(used.limit(_MOST_OTHERS)):
        found.setdefault(digest, _PRODUCTION)
    found.pop(scores.digest, None)
    return found


def _with_texts(rows: Sequence[PickedRow], texts: dict[int, tuple[str, str]]) -> list[PickedRow]:
    return [
        row.model_copy(
            update={
                "prompt": _text(texts, row.row, 0, MOST_PICKED_TEXT),
                "reference": _text(texts, row.row, 1, MOST_PICKED_TEXT),
            }
        )
        for row in rows
    ]


def _text(texts: dict[int, tuple[str, str]], row: int, which: int, most: int) -> str | None:
    text = texts[row][which] if row in texts else None
    return text if text is None or len(text) <= most else f"{text[: most - 1]}…"


def _without_texts(found: PickedRows) -> PickedRows:
    cleared = {
        name: [row.model_copy(update={"prompt": None, "reference": None}) for row in getattr(found, name)]
        for name in ("low", "high", "changed")
    }
    return found.model_copy(update={**cleared, "without_texts": _REMOVED})
