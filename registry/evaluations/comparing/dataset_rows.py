"""Rows of the dataset that scores are of: the groups that they fall into, and what was asked."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from registry.artifacts.service import Artifacts
from registry.errors import Invalid, InvalidData
from sdk.formats.rows import Row, RowsError, detect_format, group_of, judge_rows, text_values

#: The longest dataset that is read for it.
MOST_BYTES = 2 * 1000**3
#: Of a text, so many characters are shown.
_SHOWN = 2000
_PART_BYTES = 1 << 20


@contextmanager
def dataset_file(artifacts: Artifacts, digest: str, size_bytes: int) -> Iterator[Path]:
    """Give a copy of a dataset's bytes while it is read. Raises Invalid for one that is too long or Parquet, Verification."""
    if size_bytes > MOST_BYTES:
        raise Invalid(
            f"the dataset {digest[:12]} has more than {MOST_BYTES // 1000**3} GB, which are not read for this; "
            "compare without --by and --examples"
        )
    with tempfile.NamedTemporaryFile(prefix="rows-") as file:
        with artifacts.reading(digest) as source:
            while part := source.read(_PART_BYTES):
                file.write(part)
        file.flush()
        path = Path(file.name)
        if detect_format(path) == "parquet":
            raise Invalid(
                f"the rows {digest[:12]} are Parquet, which the registry does not read; add them as JSONL: adapterctl data add FILE"
            )
        yield path


def groups_of(path: Path, column: str, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the number of the group of each row, (rows,), from 0: rows with the same text or number in `column` are one.

    Raises Invalid where a row has none, InvalidData where the file can't be read.
    """
    groups = np.empty(len(rows), dtype=np.int64)
    numbers: dict[str, int] = {}
    for place, where, value in _values(path, rows.tolist()):
        try:
            group = group_of(value, column)
        except ValueError as error:
            raise Invalid(f"{where} {error}; compare by another column, or without --by", param="by") from error
        groups[place] = numbers.setdefault(group, len(numbers))
    return groups


def texts_of(path: Path, columns: Mapping[str, str] | None, rows: Collection[int]) -> dict[int, tuple[str, str]]:
    """Return what was asked and expected in each of these rows that can be used, by number. Raises InvalidData."""
    wanted = sorted(rows)
    values = ((str(wanted[place]), value) for place, _, value in _values(path, wanted, columns))
    return {int(row.where): _asked(row) for row in judge_rows(values, columns=columns) if isinstance(row, Row)}


def _values(
    path: Path, rows: list[int], columns: Mapping[str, str] | None = None
) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Yield (place among `rows`, where, value) of the rows with these numbers, which ascend."""
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
    """What a row asks, and what it expects: of a conversation the last answer that counts, and the message before it."""
    fields = row.fields
    match row.shape:
        case "messages":
            return _last_answer(fields["messages"])
        case "text" | "text-label":
            return _shown(fields["text"]), _shown(str(fields.get("label", "")))
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
    # One that calls tools has none.
    return _shown(message.get("content", ""))


def _shown(text: str) -> str:
    # Half of a pair of surrogates is no character that can be sent.
    text = text.encode(errors="replace").decode()
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
