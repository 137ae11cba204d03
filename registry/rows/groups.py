"""The groups that rows fall into by a column, and the scores of an evaluation by its values."""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry.errors import Invalid, InvalidData
from registry.rows.comparing.orders import scores_of
from registry.rows.sums import RowSums
from sdk.formats.columns import named
from sdk.formats.rows import RowsError, group_of, text_values
from sdk.rows.signature_file import SignatureFile
from sdk.schemas.scores import MOST_SLICES, Slice

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

#: How many characters of a value are shown, and how many of its digest if it would look like another.
_SHOWN = 200
_DIGEST = 8
#: Values that are longer are told apart by their digests; and how many characters all values that are shown may have.
_KEPT, _MOST_CHARACTERS = 64, 1 << 24


#: How many rows are sorted into slices: some 20 seconds of one core.
_MOST_ROWS = 2_000_000


@dataclass(frozen=True)
class Groups:
    """The groups that rows fall into by a column."""

    #: (rows,) the number of each row's group, from 0.
    numbers: npt.NDArray[np.int64]
    #: (groups,) the value that a group's rows have in common; none if there may be any number of groups.
    values: list[str]

    def shown(self) -> list[str]:
        """Return how the values are shown, which must be JSON."""
        return _shown(self.values)


def groups_of(
    path: Path,
    column: str,
    rows: npt.NDArray[np.int64],
    *,
    value_of: Callable[[Mapping[str, Any], str], str],
    most: int | None = None,
) -> Groups:
    """Return the groups of rows, given by their ascending numbers: rows with the same value in `column` are one group.

    `value_of` returns the value of a row, or raises ValueError, with the rest of a sentence, if it has none. Raises
    Invalid then, and if there are more than `most` values or they are too long; InvalidData if the file can't be read.
    """
    import numpy as np

    groups = np.empty(len(rows), dtype=np.int64)
    numbers: dict[str, int] = {}
    values: list[str] = []
    characters = 0
    for place, where, value in numbered(path, rows.tolist()):
        try:
            group = value_of(value, column)
        except ValueError as error:
            raise Invalid(f"{where} {error}; name another column", param="by") from error
        known = len(numbers)
        groups[place] = numbers.setdefault(group if len(group) <= _KEPT else _digest(group), known)
        if most is None or len(numbers) == known:
            continue
        values.append(group)
        characters += len(group)
        if known == most or characters > _MOST_CHARACTERS:
            raise Invalid(
                f"the rows have more than {most} values in {column[:80]!a}; name a column that has fewer"
                if known == most
                else f"the values in {column[:80]!a} are too long to be shown; name a column that has shorter ones",
                param="by",
            )
    return Groups(groups, values)


def equal_rows(
    signatures: Path, rows: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]] | None:
    """Return for each of these rows a number from 0 that equal rows share, and how many rows have each; None if a file of
    signatures doesn't have these rows.
    """
    import numpy as np

    held = SignatureFile(signatures)
    if not held.rows or int(rows[-1]) >= held.rows:
        return None
    by_row = np.empty(held.rows, dtype=np.uint64)
    by_row[held.exact_rows] = held.exact
    _, owners, counts = np.unique(by_row[rows], return_inverse=True, return_counts=True)
    return owners.astype(np.int64), counts


def json_of(row: Mapping[str, Any], column: str) -> str:
    """The value of a row, as JSON. Raises ValueError, with the rest of a sentence, for a row without the column."""
    if column not in row:
        raise ValueError(f"has no column {column[:80]!a}, but {named(row)}")
    try:
        return json.dumps(row[column], sort_keys=True, ensure_ascii=False)
    except RecursionError:
        raise ValueError(f"has a value in {column[:80]!a} that is nested too deeply") from None


#: How a row's value in a column decides about its group: as for a comparison, or as JSON.
BY: dict[str, Callable[[Mapping[str, Any], str], str]] = {"group": group_of, "json": json_of}


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
        text if alike[text] == 1 else f"{text[: _SHOWN - 1 - _DIGEST]}…{_digest(value)[:_DIGEST]}"
        for text, value in zip(cut, values, strict=True)
    ]


def _digest(value: str) -> str:
    return sha256(value.encode("utf-8", "surrogatepass")).hexdigest()


def numbered(
    path: Path, rows: list[int], columns: Mapping[str, str] | None = None
) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Yield (index in `rows`, where, value) for the rows with these numbers, which must ascend. Raises InvalidData."""
    place = 0
    try:
        for number, (where, value) in enumerate(text_values(path, columns)):
            if place == len(rows):
                return
            if number == rows[place] and isinstance(value, dict):
                yield place, where, value
                place += 1
    except RowsError as error:
        raise InvalidData(str(error)) from error
    if place < len(rows):
        raise InvalidData(
            f"row {rows[place]} of the dataset can't be read; score the targets again: adapterctl eval REF REF --again"
        )


def slices(*, scores: str, ident: str, dataset: str, column: str) -> list[dict[str, Any]]:
    """Return the slices of the scores in a file, the largest first. Raises Invalid for a column that rows don't have or
    with too many values and for too many rows, InvalidData, Verification.
    """
    import numpy as np

    numbers = array("q")
    for row in scores_of(ident, Path(scores)):
        numbers.append(row.row)
        if len(numbers) > _MOST_ROWS:
            raise Invalid(f"these scores are of more than {_MOST_ROWS} rows, too many to sort by a column", param="by")
    rows = np.frombuffer(numbers, dtype=np.int64)
    found = groups_of(Path(dataset), column, rows, value_of=BY["json"], most=MOST_SLICES)
    sums = [RowSums() for _ in found.values]
    for group, row in zip(found.numbers, scores_of(ident, Path(scores)), strict=True):
        sums[group].add(row)
    each = [_slice(value, of) for value, of in zip(found.shown(), sums, strict=True)]
    each.sort(key=lambda one: (-one.rows - one.failed_rows, one.value))
    return [one.model_dump(mode="json") for one in each]


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
