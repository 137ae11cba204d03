"""The scores of an evaluation by the value of a column of its dataset, from the rows that were recorded."""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

from registry.artifacts.service import Artifacts
from registry.db.database import Database
from registry.errors import Invalid, NotFound
from registry.evaluations.dataset_rows import Groups, can_not_group, groups_of, rows_of
from registry.evaluations.rows import EvaluationRows
from registry.evaluations.service import Evaluations
from registry.jobs.kinds.evaluation_rows import RowSums
from registry.principal import Principal
from sdk.formats.columns import named
from sdk.schemas.slices import MOST_SLICES, Slice, SlicedScores

#: How many rows are sorted into slices: some 20 seconds of one core.
_MOST_ROWS = 2_000_000
#: How many characters of a value are shown, and how many of its digest if it would look like another.
_SHOWN = 200
_DIGEST = 8


class Slicing:
    """The service that sums up recorded rows by a column; nothing is computed again."""

    def __init__(self, db: Database, artifacts: Artifacts, evaluations: Evaluations, rows: EvaluationRows) -> None:
        self._db = db
        self._artifacts = artifacts
        self._evaluations = evaluations
        self._rows = rows

    def slices(self, ident: str, *, by: str, who: Principal) -> SlicedScores:
        """Sum up the rows of an evaluation by the values of the column `by`.

        Raises NotFound for scores that the caller may not see or that have no rows, Invalid for a column that rows don't
        have, or with too many values, and for rows that can't be read.
        """
        numbers = array("q", (row.row for row in self._rows.read(ident, who=who)))
        if len(numbers) > _MOST_ROWS:
            raise Invalid(f"these scores are of more than {_MOST_ROWS} rows, too many to sort by a column", param="by")
        groups = self._groups(self._dataset(ident, who), by, numbers, who)
        sums = [RowSums() for _ in groups.values]
        for group, row in zip(groups.numbers.tolist(), self._rows.read(ident, who=who), strict=True):
            sums[group].add(row)
        found = [_slice(value, of) for value, of in zip(_shown(groups.values), sums, strict=True)]
        found.sort(key=lambda one: (-one.rows - one.failed_rows, one.value))
        return SlicedScores(evaluation=ident, by=by, slices=found)

    def _dataset(self, ident: str, who: Principal) -> str:
        page = self._evaluations.list(digest=None, job=None, base=None, ident=ident, cursor=None, limit=1, who=who)
        if not page.items:
            raise NotFound(f"the scores {ident[:64]!a} can't be read; make them again with: adapterctl eval")
        return page.items[0].dataset

    def _groups(self, dataset: str, by: str, numbers: array[int], who: Principal) -> Groups:
        import numpy as np

        try:
            with rows_of(self._db, self._artifacts, dataset, who) as path:
                return groups_of(path, by, np.frombuffer(numbers, dtype=np.int64), value_of=_value_of, most=MOST_SLICES)
        except NotFound as error:
            raise can_not_group(by, f"{error.message}; see them row by row: adapterctl evals show ID --rows") from error


def _value_of(row: Mapping[str, Any], column: str) -> str:
    """The value of a row, as JSON. Raises ValueError."""
    if column not in row:
        raise ValueError(f"has no column {column[:80]!a}, but {named(row)}")
    return json.dumps(row[column], sort_keys=True, ensure_ascii=False)


def _slice(value: str, sums: RowSums) -> Slice:
    metrics = {name: mean for name, mean in sums.means().items() if mean is not None}
    return Slice(
        value=value,
        rows=sums.rows - sums.failed,
        failed_rows=sums.failed,
        unscored_rows=sums.unscored,
        tokens=sums.tokens,
        metrics=metrics,
        scored={name: count for name, count in sums.scored.items() if name in metrics},
    )


def _shown(values: Sequence[str]) -> list[str]:
    """How to show values, given as JSON: a text without its quotes, unless another value looks the same; a long one is
    cut, and gets a digest if another begins the same.
    """
    plain = [found if isinstance(found := json.loads(value), str) else value for value in values]
    alike = Counter(plain)
    shown = [text if alike[text] == 1 else value for text, value in zip(plain, values, strict=True)]
    # Half of a surrogate pair can't be sent as a character.
    texts = [text.encode(errors="replace").decode() for text in shown]
    cut = [text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…" for text in texts]
    alike = Counter(cut)
    return [
        text if alike[text] == 1 else f"{text[: _SHOWN - 1 - _DIGEST]}…{_digest(value)}"
        for text, value in zip(cut, values, strict=True)
    ]


def _digest(value: str) -> str:
    return sha256(value.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST]
