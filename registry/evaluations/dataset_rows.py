"""Rows of the dataset of some scores: the groups that they fall into, and what was asked in them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry.artifacts.service import Artifacts
from registry.datasets.finding import find_dataset
from registry.db.database import Database
from registry.errors import Invalid, InvalidData, NotFound
from registry.principal import Principal
from sdk.formats.rows import Row, RowsError, detect_format, judge_rows, text_values

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

#: The largest dataset that is read for this.
MOST_BYTES = 2 * 1000**3
#: How many characters of a text are shown.
_SHOWN = 2000


@dataclass(frozen=True)
class Groups:
    """The groups that rows fall into by a column."""

    #: (rows,) the number of each row's group, from 0.
    numbers: npt.NDArray[np.int64]
    #: (groups,) the value that a group's rows have in common.
    values: list[str]


@contextmanager
def rows_of(db: Database, artifacts: Artifacts, dataset: str, who: Principal) -> Iterator[Path]:
    """Open a copy of the bytes of a dataset that the caller may read, by its digest.

    Raises NotFound if it was removed or the caller may not read it, and what `dataset_file` raises.
    """
    try:
        with db.read() as session:
            row = find_dataset(session, dataset, who, removed=False).dataset
            digest, size_bytes = row.digest, row.size_bytes
    except NotFound as error:
        raise NotFound(f"the dataset {dataset[:12]} was removed, or this token may not read it") from error
    with dataset_file(artifacts, digest, size_bytes) as path:
        yield path


def can_not_group(by: str, why: str) -> Invalid:
    """The error if rows are to be grouped by a column and their dataset can't be read."""
    return Invalid(f"rows can't be grouped by {by[:80]!a}: {why}", param="by")


@contextmanager
def dataset_file(artifacts: Artifacts, digest: str, size_bytes: int) -> Iterator[Path]:
    """Open a copy of a dataset's bytes for the block. Raises Invalid if it is too large or Parquet, Verification."""
    if size_bytes > MOST_BYTES:
        raise Invalid(
            f"the dataset {digest[:12]} has more than {MOST_BYTES // 1000**3} GB, which are not read for this; "
            "leave out --by and --examples"
        )
    with tempfile.NamedTemporaryFile(prefix="rows-") as file:
        path = Path(file.name)
        artifacts.copy(digest, path)
        if detect_format(path) == "parquet":
            raise Invalid(
                f"the rows {digest[:12]} are Parquet, which the registry does not read; add them as JSONL: adapterctl data add FILE"
            )
        yield path


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
    Invalid then, and if there are more than `most` values; InvalidData if the file can't be read.
    """

    import numpy as np

    groups = np.empty(len(rows), dtype=np.int64)
    numbers: dict[str, int] = {}
    for place, where, value in _values(path, rows.tolist()):
        try:
            group = value_of(value, column)
        except ValueError as error:
            raise Invalid(f"{where} {error}; name another column", param="by") from error
        groups[place] = numbers.setdefault(group, len(numbers))
        if most is not None and len(numbers) > most:
            raise Invalid(
                f"the rows have more than {most} values in {column[:80]!a}; name a column that has fewer", param="by"
            )
    return Groups(groups, list(numbers))


def texts_of(path: Path, columns: Mapping[str, str] | None, rows: Collection[int]) -> dict[int, tuple[str, str]]:
    """Return what was asked and expected in those of these rows that can be used, by number. Raises InvalidData."""
    wanted = sorted(rows)
    values = ((str(wanted[place]), value) for place, _, value in _values(path, wanted, columns))
    return {int(row.where): _asked(row) for row in judge_rows(values, columns=columns) if isinstance(row, Row)}


def _values(
    path: Path, rows: list[int], columns: Mapping[str, str] | None = None
) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Yield (index in `rows`, where, value) for the rows with these numbers, which must ascend."""
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


def _asked(row: Row) -> tuple[str, str]:
    """What a row asks, and what it expects: in a conversation, the last answer that counts and the message before
    it.
    """
    fields = row.fields
    match row.shape:
        case "messages":
            return _last_answer(fields["messages"])
        case "text" | "text-label":
            return _shown(fields["text"]), _shown(str(fields.get("label", "")))
        case "choices":
            return _shown(fields["prompt"]), _shown(fields["choices"][fields["answer"]])
        case "references":
            asked, first = fields["prompt"], fields["references"][0]
            return _shown(asked) if isinstance(asked, str) else _content(asked[-1]), _shown(first)
    prompt, answer = fields["prompt"], fields["chosen" if row.shape == "preference" else "completion"]
    if isinstance(prompt, list):
        return _last_answer([*prompt, *answer])
    return _shown(prompt), _shown(answer)


def _last_answer(messages: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """The last message of an assistant that has a weight, after the message before it."""
    for place in reversed(range(len(messages))):
        if messages[place]["role"] == "assistant" and messages[place].get("weight", 1) != 0:
            return _content(messages[place - 1]) if place else "", _content(messages[place])
    return "", ""


def _content(message: Mapping[str, Any]) -> str:
    # A message that calls tools has no content.
    return _shown(message.get("content", ""))


def _shown(text: str) -> str:
    # Half of a surrogate pair can't be sent as a character.
    text = text.encode(errors="replace").decode()
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
