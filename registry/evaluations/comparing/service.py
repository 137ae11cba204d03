"""Compares versions and bare bases by the rows that they were scored on."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from registry.artifacts.service import Artifacts
from registry.catalog.bases.names import ANYBODYS, Whose
from registry.catalog.bases.service import Bases
from registry.catalog.versions.service import Catalog
from registry.datasets.finding import find_dataset
from registry.datasets.signatures import SignedDatasets
from registry.db.database import Database
from registry.errors import Invalid, RegistryError
from registry.evaluations.comparing.alike import Target, scored_alike
from registry.evaluations.comparing.equal_rows import EqualRows, equal_rows
from registry.evaluations.comparing.pairs import compare_pairs
from registry.evaluations.comparing.row_values import LOSS, RowValues, note_on_weight, notes_on, read_values
from registry.evaluations.comparing.verdicts import Clusters, with_training_rows
from registry.evaluations.dataset_rows import can_not_group, groups_of, rows_of, texts_of
from registry.evaluations.rows import EvaluationRows
from registry.evaluations.service import Evaluations
from registry.principal import Principal
from sdk.formats.columns import parse_columns
from sdk.formats.rows import group_of
from sdk.schemas.comparison import ChangedRow, Compared, Comparison
from sdk.schemas.scores import EvaluationView

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_PAGE = 1000
_BASE = "base:"


class Comparisons:
    """The service that compares scores that were made under the same conditions."""

    def __init__(
        self,
        db: Database,
        artifacts: Artifacts,
        catalog: Catalog,
        bases: Bases,
        evaluations: Evaluations,
        rows: EvaluationRows,
        signed: SignedDatasets,
    ) -> None:
        self._db = db
        self._artifacts = artifacts
        self._catalog = catalog
        self._bases = bases
        self._evaluations = evaluations
        self._rows = rows
        self._signed = signed

    def compare(
        self,
        *,
        refs: Sequence[str],
        metric: str | None,
        data: str | None,
        by: str | None,
        examples: int,
        detect: float | None,
        who: Principal,
        whose: Whose = ANYBODYS,
    ) -> Comparison:
        """Compare two or more targets row by row, each with each other; without a `metric`, by their loss.

        Raises InvalidName, InvalidRef, NotFound for what the caller may not see or what has no scores, Invalid for what
        can't be compared in this way, Conflict for scores that were made under different conditions.
        """
        metric = metric or LOSS
        digest = None if data is None else self._dataset(data, who)
        found = scored_alike(self._targets(refs, who, whose), data=digest, metric=metric)
        values = read_values([(one.ref, self._rows.read(one.id, who=who)) for one in found], metric)
        labels = [one.ref for one in found]
        columns = found[0].conditions.get("columns")
        equal = EqualRows() if by else equal_rows(self._signed, found[0].dataset, columns, values.rows)
        kind = Clusters.GROUPS if by else Clusters.ROWS if equal.groups is None else Clusters.DIFFERENT
        with ExitStack() as stack:
            path, unreadable = self._rows_file(stack, found[0].dataset, who) if by or examples else (None, None)
            groups = self._groups(path, unreadable, by, values.rows) if by else equal.groups
            pairs = compare_pairs(
                values,
                refs=labels,
                digests=[one.rows_digest or one.id for one in found],
                metric=metric,
                groups=groups,
                kind=kind,
                detect=detect,
            )
            seen = {one.ref: one.contamination for one in found}
            pairs = [pair.model_copy(update={"verdict": with_training_rows(pair, seen, labels)}) for pair in pairs]
            changed = self._examples(found, values, path, examples, who) if examples else []
        means = values.sums.sum(axis=1) / values.masses.sum()
        return Comparison(
            metric=metric,
            lower_is_better=metric == LOSS,
            dataset=found[0].dataset,
            rows=len(values.rows),
            by=by,
            groups=int(groups.max()) + 1 if by and groups is not None else None,
            distinct_rows=equal.distinct,
            refs=labels,
            scores=[
                Compared(ref=one.ref, evaluation=one.id, score=float(mean), contamination=one.contamination)
                for one, mean in zip(found, means, strict=True)
            ],
            pairs=pairs,
            notes=notes_on(values, metric, found)
            + equal.notes
            + note_on_weight(values, metric, groups, by=by)
            + ([f"prompts are not shown: {unreadable}"] if unreadable and examples else []),
            examples=changed,
        )

    # What is compared.

    def _targets(self, refs: Sequence[str], who: Principal, whose: Whose) -> list[Target]:
        targets: dict[str, Target] = {}
        given: dict[str, str] = {}
        for ref in refs:
            target, what = self._target(ref, who, whose)
            if what in targets:
                raise Invalid(
                    f"{given[what]} and {ref} are the same {'base' if ref.startswith(_BASE) else 'version'}; name two that differ",
                    param="ref",
                )
            targets[what], given[what] = target, ref
        return list(targets.values())

    def _target(self, ref: str, who: Principal, whose: Whose) -> tuple[Target, str]:
        """What a ref means, and its digest or fingerprint."""
        if ref.startswith(_BASE):
            base = self._bases.get(ref.removeprefix(_BASE), whose=whose, who=who)
            name, what = f"{_BASE}{base.id}", base.fingerprint
            found = self._all(who, base=what)
        else:
            version = self._catalog.resolve(ref, who=who)
            name, what = version.ref, version.digest
            found = self._all(who, digest=what)
        return Target(name, [one.model_copy(update={"ref": name}) for one in found]), what

    def _all(self, who: Principal, *, digest: str | None = None, base: str | None = None) -> list[EvaluationView]:
        found: list[EvaluationView] = []
        cursor: str | None = None
        while True:
            page = self._evaluations.list(digest=digest, job=None, base=base, cursor=cursor, limit=_PAGE, who=who)
            found += page.items
            cursor = page.next
            if cursor is None:
                return found

    def _dataset(self, text: str, who: Principal) -> str:
        with self._db.read() as session:
            return find_dataset(session, text, who, removed=True).dataset.digest

    # What the dataset says about its rows.

    def _rows_file(self, stack: ExitStack, dataset: str, who: Principal) -> tuple[Path | None, str | None]:
        """The dataset's file, or why it can't be read."""
        try:
            return stack.enter_context(rows_of(self._db, self._artifacts, dataset, who)), None
        except RegistryError as error:
            return None, error.message

    def _groups(
        self, path: Path | None, unreadable: str | None, by: str, rows: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int64]:
        if path is None:
            raise can_not_group(by, f"{unreadable}; or compare without --by")
        return groups_of(path, by, rows, value_of=group_of).numbers

    def _examples(
        self, found: Sequence[EvaluationView], values: RowValues, path: Path | None, most: int, who: Principal
    ) -> list[ChangedRow]:
        """The rows whose scores are furthest apart, with what each target made of them."""

        import numpy as np

        scores = values.scores()
        apart = scores.max(axis=0) - scores.min(axis=0)
        order = np.argsort(-apart, kind="stable")[:most]
        chosen = [int(place) for place in order if apart[place] > 0]
        numbers = [int(values.rows[place]) for place in chosen]
        columns = found[0].conditions.get("columns")
        texts = {} if path is None else texts_of(path, parse_columns(columns) if columns else None, numbers)
        wanted = set(numbers)
        predictions = [
            {row.row: row.prediction for row in self._rows.read(one.id, who=who) if row.row in wanted} for one in found
        ]
        return [
            ChangedRow(
                row=number,
                prompt=texts[number][0] if number in texts else None,
                reference=texts[number][1] if number in texts else None,
                scores=[float(score) for score in scores[:, place]],
                predictions=[of.get(number) for of in predictions],
            )
            for place, number in zip(chosen, numbers, strict=True)
        ]
