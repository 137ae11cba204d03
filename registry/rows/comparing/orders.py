"""Comparing in two steps, whose arrays are kept in a folder between them: in the second, it is known which rows are alike.

All functions are called by name in a process apart, with paths and plain values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry.errors import Verification
from registry.rows.comparing.pairs import Clusters, compare_pairs, notes_on_few
from registry.rows.comparing.row_values import RowValues, note_on_weight, read_values
from sdk.schemas.evaluation import RowScore
from sdk.schemas.row_file import RowFileError, read_rows

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

#: A target's ref, the id of its scores, and their file by row.
RowsOf = tuple[str, str, str]
#: Files of numbers in the folder: of rows and of their groups, `<i8`.
ROWS, GROUPS = "rows", "groups"
_SUMS, _MASSES = "sums", "masses"


def scores_of(ident: str, path: Path) -> Iterator[RowScore]:
    """Yield the scores of a file. Raises Verification if it can't be read."""
    with path.open("rb") as file:
        try:
            yield from read_rows(file)
        except RowFileError as error:
            raise Verification(f"the rows of the scores {ident[:64]!a} can't be read: {error}") from error


def values(*, targets: Sequence[RowsOf], metric: str, folder: str, most: int | None = None) -> dict[str, int]:
    """Write what all targets scored on the rows that they have in common, and return how many these are, and how many
    only some have. Raises what `read_values` raises, Verification.
    """
    found = read_values([(ref, scores_of(ident, Path(path))) for ref, ident, path in targets], metric, most=most)
    for name, numbers in ((ROWS, found.rows), (_SUMS, found.sums), (_MASSES, found.masses)):
        numbers.tofile(Path(folder, name))
    return {"rows": len(found.rows), "left_out": found.left_out}


def stored_values(folder: Path, targets: int, left_out: int) -> RowValues:
    """Return what `values` wrote for so many targets."""
    import numpy as np

    rows = np.fromfile(folder / ROWS, "<i8")
    sums = np.fromfile(folder / _SUMS).reshape(targets, len(rows))
    return RowValues(rows, sums, np.fromfile(folder / _MASSES), left_out)


def pairs(
    *,
    targets: Sequence[RowsOf],
    metric: str,
    folder: str,
    digests: Sequence[str],
    grouped: bool,
    by: str | None,
    kind: str,
    detect: float | None,
    examples: int,
    to_first: bool = False,
) -> dict[str, Any]:
    """Compare each target with each other, or each with the first alone, by what `values` wrote; if `grouped`, the folder has the group of each row.

    Returns `pairs`, the `means` of the targets, `notes`, the number of `groups`, and `changed`: of this many rows, that
    changed most, the number, the scores and the texts.
    """
    import numpy as np

    found = stored_values(Path(folder), len(targets), 0)
    groups = np.fromfile(Path(folder, GROUPS), "<i8") if grouped else None
    refs = [ref for ref, _, _ in targets]
    compared = compare_pairs(
        found,
        refs=refs,
        digests=digests,
        metric=metric,
        groups=groups,
        kind=Clusters(kind),
        detect=detect,
        to_first=to_first,
    )
    return {
        "pairs": [one.model_dump(mode="json") for one in compared],
        "means": (found.sums.sum(axis=1) / found.masses.sum()).tolist(),
        "notes": [*note_on_weight(found, metric, groups, by=by), *notes_on_few(compared, Clusters(kind))],
        "groups": None if groups is None else int(groups.max()) + 1,
        "changed": _changed(found, targets, examples) if examples else [],
    }


def _changed(found: RowValues, targets: Sequence[RowsOf], most: int) -> list[dict[str, Any]]:
    """The rows whose scores are furthest apart, with what each target made of them."""
    import numpy as np

    scores: npt.NDArray[np.float64] = found.scores()
    apart = scores.max(axis=0) - scores.min(axis=0)
    order = np.argsort(-apart, kind="stable")[:most]
    chosen = [int(place) for place in order if apart[place] > 0]
    numbers = [int(found.rows[place]) for place in chosen]
    wanted = set(numbers)
    predictions = [
        {row.row: row.scored_text for row in scores_of(ident, Path(path)) if row.row in wanted}
        for _, ident, path in targets
    ]
    return [
        {
            "row": number,
            "scores": [float(score) for score in scores[:, place]],
            "predictions": [of.get(number) for of in predictions],
        }
        for place, number in zip(chosen, numbers, strict=True)
    ]
