"""Compares versions and bare bases by the rows that they were scored on."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field

from registry.artifacts.service import Artifacts
from registry.catalog.bases.names import BaseNamespace, IsPublished, Whose
from registry.catalog.bases.service import Bases
from registry.catalog.versions.finding import space_of
from registry.catalog.versions.service import Catalog
from registry.datasets.finding import find_dataset, first_names
from registry.datasets.signatures import NotSigned, Reading, SignedDatasets, TooLongForNow
from registry.db.database import Database
from registry.errors import Invalid, RegistryError
from registry.evaluations.comparing.alike import ScoredTarget, scored_alike
from registry.evaluations.models import Evaluation
from registry.evaluations.rows import EvaluationRows
from registry.evaluations.service import Evaluations
from registry.evaluations.slicing import can_not_group, rows_of
from registry.evaluations.standing import ScoresOf, of_base, of_version, space_of_bases
from registry.principal import Principal
from registry.rows.comparing.orders import GROUPS, ROWS, RowsOf
from registry.rows.comparing.pairs import Clusters, with_training_rows
from registry.rows.comparing.row_values import LOSS, notes_on
from registry.rows.process import Breach
from registry.rows.service import Equal, RowReading
from sdk.formats.columns import parse_columns
from sdk.schemas.evaluation import better_is
from sdk.schemas.scores import (
    MOST_AGAINST_ONE,
    MOST_EXAMPLES,
    MOST_TARGETS,
    ChangedRow,
    Compared,
    ComparedPair,
    Comparison,
    EvaluationView,
)

_BASE = "base:"


#: What a comparison waits for: signatures of this many bytes, or rows of a sixteenth, some seconds of one core.
_MOST_BYTES = 1000**3


@dataclass(frozen=True)
class _Subject:
    """What is compared, made exact."""

    #: "code-review@v3", or "base:ID".
    name: str
    #: Whose scores of it count; None if that isn't clear, and the caller says whose.
    namespace: str | None
    #: Of a version.
    digest: str | None = None
    #: Of a bare base.
    fingerprint: str | None = None


class ComparedBy(BaseModel):
    """How things are compared by their rows."""

    metric: Annotated[
        str | None, Field(min_length=1, max_length=100, description="The score that is compared; without it, the loss.")
    ] = None
    data: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=300,
            description="The dataset, by name or digest, where there are scores on several.",
        ),
    ] = None
    by: Annotated[
        str | None,
        Field(min_length=1, max_length=200, description="A column of the dataset: its equal rows form a group."),
    ] = None
    detect: Annotated[
        float | None,
        Field(ge=1e-9, le=1e9, description="A difference: how many rows show it? Without it, the one that was found."),
    ] = None
    scores_of: ScoresOf = None
    base_namespace: BaseNamespace = None
    published: IsPublished = False


class ToFirstQuery(ComparedBy):
    """What is compared with the first that is named, by what, and what of it is shown."""

    ref: Annotated[list[Annotated[str, Field(max_length=1000)]], Field(min_length=2, max_length=1 + MOST_AGAINST_ONE)]
    examples: Annotated[
        int, Field(ge=0, le=MOST_EXAMPLES, description="Rows to show side by side, those that changed most.")
    ] = 0


class ComparisonQuery(ToFirstQuery):
    """What is compared, each with each, by what, and what of it is shown."""

    ref: Annotated[
        list[Annotated[str, Field(max_length=1000)]],
        Field(
            min_length=2,
            max_length=MOST_TARGETS,
            description='Versions, members of sweeps as "sweep:ID/N", and bare bases as "base:ID".',
            examples=[["team/code-review@v3", "team/code-review@v4"]],
        ),
    ]


@dataclass(frozen=True, eq=False)
class Comparisons:
    """The service that compares scores that were made under the same conditions."""

    _db: Database
    _artifacts: Artifacts
    _catalog: Catalog
    _bases: Bases
    _evaluations: Evaluations
    _rows: EvaluationRows
    _signed: SignedDatasets
    _reading: RowReading

    def _name_of(self, digest: str, who: Principal) -> str | None:
        """Return the first name of a dataset that the caller may know."""
        with self._db.read() as session:
            return first_names(session, [digest], who).get(digest)

    def compare(self, asked: ToFirstQuery, *, who: Principal) -> Comparison:
        """Compare two or more targets row by row, each with each other, or with the first alone; without a `metric`, by their
        loss.

        The scores are those that count for each, see `standing`, or those of the namespace `scores_of` ("*": of any).
        Raises InvalidName, InvalidRef, NotFound for what the caller may not see or what has no scores, Invalid for what
        can't be compared in this way, Conflict for scores that were made under different conditions.
        """
        metric, by, scores_of, examples = asked.metric or LOSS, asked.by, asked.scores_of, asked.examples
        subjects = self._subjects(asked.ref, scores_of, who, Whose(asked.base_namespace, asked.published))
        digest = None if asked.data is None else self._dataset(asked.data, subjects, who)
        found = scored_alike([self._target(one, scores_of, who) for one in subjects], data=digest, metric=metric)
        labels = [one.ref for one in found]
        columns = found[0].conditions.get("columns")
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="compared-")))
            targets = self._copied(found, folder, who)
            common = self._reading.values(targets, metric, folder)
            rows, groups = folder / ROWS, folder / GROUPS
            equal = EqualRows()
            if not by:
                equal = equal_rows(
                    self._signed, self._reading, found[0].dataset, columns, rows, groups, count=common["rows"]
                )
            kind = Clusters.GROUPS if by else Clusters.ROWS if equal.distinct is None else Clusters.DIFFERENT
            path, unreadable = self._rows_file(stack, found[0].dataset, who) if by or examples else (None, None)
            if by:
                self._write_groups(path, unreadable, by, rows, groups)
            told = self._reading.pairs(
                targets,
                folder,
                metric=metric,
                digests=[one.rows_digest or one.id for one in found],
                grouped=bool(by) or equal.distinct is not None,
                by=by,
                kind=kind,
                detect=asked.detect,
                examples=examples,
                to_first=not isinstance(asked, ComparisonQuery),
            )
            seen = {one.ref: one.contamination for one in found}
            pairs = [with_training_rows(ComparedPair.model_validate(one), seen, labels) for one in told["pairs"]]
            changed = self._changed(told["changed"], path, columns)
        return Comparison(
            metric=metric,
            lower_is_better=better_is(metric) == "less",
            dataset=found[0].dataset,
            dataset_name=self._name_of(found[0].dataset, who),
            rows=common["rows"],
            by=by,
            groups=told["groups"] if by else None,
            distinct_rows=equal.distinct,
            refs=labels,
            scores=[
                Compared(
                    ref=one.ref,
                    evaluation=one.id,
                    namespace=one.namespace,
                    score=mean,
                    contamination=one.contamination,
                )
                for one, mean in zip(found, told["means"], strict=True)
            ],
            pairs=pairs,
            notes=_notes_on_others(subjects, found)
            + notes_on(common["left_out"], metric, found)
            + equal.notes
            + told["notes"]
            + ([f"prompts are not shown: {unreadable}"] if unreadable and examples else []),
            examples=changed,
        )

    # What is compared.

    def _subjects(self, refs: Sequence[str], scores_of: str | None, who: Principal, whose: Whose) -> list[_Subject]:
        """What the refs name. Raises Invalid if two name the same, or if it isn't clear whose scores of a base count."""
        versions = {ref: self._catalog.resolve(ref, who=who) for ref in refs if not ref.startswith(_BASE)}
        spaces = {space_of(version.adapter) for version in versions.values()}
        subjects: dict[str, _Subject] = {}
        given: dict[str, str] = {}
        for ref in refs:
            if ref in versions:
                version = versions[ref]
                found = _Subject(version.ref, space_of(version.adapter), digest=version.digest)
            else:
                base = self._bases.get(ref.removeprefix(_BASE), whose=whose, who=who)
                space = None if scores_of is not None and len(spaces) > 1 else space_of_bases(spaces, who)
                found = _Subject(f"{_BASE}{base.id}", space, fingerprint=base.fingerprint)
            what = found.digest or found.fingerprint or ""
            if what in subjects:
                raise Invalid(
                    f"{given[what]} and {ref} are the same {'base' if ref.startswith(_BASE) else 'version'}; name two that differ",
                    param="ref",
                )
            subjects[what], given[what] = found, ref
        return list(subjects.values())

    def _target(self, subject: _Subject, scores_of: str | None, who: Principal) -> ScoredTarget:
        """What is compared, with the scores that count for it. Raises NotFound if the caller may not read `scores_of`."""
        digest, space = subject.digest, subject.namespace
        if digest is None:
            counting = of_base(who, subject.fingerprint or "", namespace=space, scores_of=scores_of)
        else:
            counting = of_version(Evaluation, who, digest=digest, namespace=space, scores_of=scores_of)
        found = self._evaluations.all_of(counting)
        readable = who.namespaces()
        are_others = scores_of is None and space != "-" and (readable is None or len(readable) > 1)
        whose = f" that the namespace {space} made, and others' count only with --scores-of" if are_others else ""
        return ScoredTarget(subject.name, [one.model_copy(update={"ref": subject.name}) for one in found], whose)

    def _dataset(self, text: str, subjects: Sequence[_Subject], who: Principal) -> str:
        # The name that the namespace of what is compared has given comes before others' names.
        spaces = {one.namespace for one in subjects}
        prefer = spaces.pop() if len(spaces) == 1 else None
        with self._db.read() as session:
            return find_dataset(session, text, who, prefer=prefer, removed=True).row.digest

    # What the dataset says about its rows.

    def _rows_file(self, stack: ExitStack, dataset: str, who: Principal) -> tuple[Path | None, str | None]:
        """The dataset's file, or why it can't be read."""
        try:
            return stack.enter_context(rows_of(self._db, self._artifacts, dataset, who)), None
        except RegistryError as error:
            return None, error.message

    def _copied(self, found: Sequence[EvaluationView], folder: Path, who: Principal) -> list[RowsOf]:
        """Copies of the rows of each target."""
        targets = [(one.ref, one.id, str(folder / f"scores-{place}")) for place, one in enumerate(found)]
        for _, ident, path in targets:
            self._rows.copy(ident, Path(path), who=who)
        return targets

    def _write_groups(self, path: Path | None, unreadable: str | None, by: str, rows: Path, groups: Path) -> None:
        if path is None:
            raise can_not_group(by, f"{unreadable}; or compare without --by")
        self._reading.groups(path, by, rows, groups, by="group")

    def _changed(self, changed: Sequence[dict[str, Any]], path: Path | None, columns: str | None) -> list[ChangedRow]:
        """The rows that changed most, with what was asked in them."""
        numbers = [int(one["row"]) for one in changed]
        texts = {}
        if numbers and path is not None:
            texts = self._reading.texts(path, parse_columns(columns) if columns else None, numbers)
        return [
            ChangedRow(
                prompt=texts[row][0] if row in texts else None, reference=texts[row][1] if row in texts else None, **one
            )
            for row, one in zip(numbers, changed, strict=True)
        ]


def _notes_on_others(subjects: Sequence[_Subject], found: Sequence[EvaluationView]) -> list[str]:
    """A note for each target whose scores are not those that count for it, but others that were asked for."""
    return [
        f"the scores of {one.name} are those that the namespace {scores.namespace} made"
        for one, scores in zip(subjects, found, strict=True)
        if scores.namespace != one.namespace
    ]


@dataclass(frozen=True)
class EqualRows:
    """Which rows are equal."""

    #: How many rows differ from one another; None if all do, or that is not known. Otherwise the group of each row, a
    #: number from 0 that equal rows share, was written.
    distinct: int | None = None
    #: What readers should know about it, in sentences.
    notes: list[str] = field(default_factory=list)


def equal_rows(
    signed: SignedDatasets,
    reading: RowReading,
    dataset: str,
    columns: str | None,
    rows: Path,
    groups: Path,
    *,
    count: int,
) -> EqualRows:
    """Find the equal ones among the `count` numbers in the file `rows`, of rows of a dataset, by the signatures that are
    kept with it, and write their `groups`. Raises Unavailable.

    Callers only learn how many there are, so the signatures are read for anybody who may read the scores.
    """
    try:
        with signed.opened(dataset, Reading(columns), most=_MOST_BYTES) as held:
            return _found(reading.equal(held.path, rows, groups), count)
    except Breach as why:
        return EqualRows(notes=[f"duplicate rows were not looked for: the dataset {why}"])
    except NotSigned as why:
        return EqualRows(notes=[f"duplicate rows were not looked for: {why}"])
    except TooLongForNow:
        return EqualRows(notes=["duplicate rows were not looked for: the dataset is too long for it"])


def _found(equal: Equal | None, rows: int) -> EqualRows:
    if equal is None:
        return EqualRows(notes=["duplicate rows were not looked for: the dataset is read otherwise by this release"])
    if equal.different == rows:
        return EqualRows()
    different = "1 different row" if equal.different == 1 else f"{equal.different} different rows"
    return EqualRows(
        equal.different,
        [f"{equal.repeated} of the rows equal others, and equal rows count as one, which leaves {different}"],
    )
