"""The signatures of all rows of a file, sorted, in one file: made once, and then quickly compared with another file's.

For each row it holds a hash of its fields, one of its normalised text, and the `MOST_KEPT` least hashes of its winnowed
13-grams, each with the row's number. It takes some 300 bytes a row on disk; making it takes scratch files of the same
size, and one byte of memory a row.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdk.formats.rows import BadRow, Row, RowsError, judge_rows
from sdk.rows.data_files import DataFile, as_files, values_of
from sdk.rows.grams import Texts, least_hashes
from sdk.rows.holdout import split_unit
from sdk.rows.sorting import Part, SortedKeys
from sdk.rows.splitting import Splitter, digest_of_sorted
from sdk.rows.texts import normalised_row, row_digest, row_key, said
from sdk.schemas.held_out import HoldOut

if TYPE_CHECKING:
    import numpy.typing as npt

#: How many hashes of 13-grams are kept of a row, out of the `MOST_SIGNATURE` of its signature.
MOST_KEPT = 24
#: How many rows a file may have: this many take one core half an hour.
MOST_ROWS = 20_000_000
#: "rows" in hexadecimal, and the number of this layout.
_MAGIC, _LAYOUT = 0x726F7773, 1
_HEADER = 4
#: Rows, and characters of their texts, that are hashed at once.
_BATCH_ROWS, _BATCH_CHARACTERS = 8192, 1 << 19


class SplitDiffers(ValueError):  # noqa: N818 - it is an answer
    """The rows that a split leaves are not those that the training recorded. The message is a sentence without a full
    stop.
    """


class SignatureFile:
    """A file of signatures, which is mapped rather than read. Raises ValueError for any other file."""

    def __init__(self, path: Path) -> None:
        import numpy as np

        self.path = path
        size = path.stat().st_size
        header = np.fromfile(path, "<u8", _HEADER) if size >= _HEADER * 8 else np.zeros(_HEADER, "<u8")
        rows, grams = int(header[2]), int(header[3])
        if header[:2].tolist() != [_MAGIC, _LAYOUT] or size != _HEADER * 8 + 12 * (2 * rows + grams):
            raise ValueError("it is not a file of signatures of this release")
        place = _HEADER * 8

        def mapped(dtype: str, count: int) -> npt.NDArray[Any]:
            nonlocal place
            found = np.memmap(path, dtype, "r", place, (count,)) if count else np.empty(0, dtype)
            place += found.nbytes
            return found

        self.rows = rows
        #: (rows,) and (grams,) of uint64, each sorted.
        self.exact, self.normalised, self.grams = mapped("<u8", rows), mapped("<u8", rows), mapped("<u8", grams)
        #: Of uint32, the row that each of these belongs to; of rows with one normalised text only the first has grams.
        self.exact_rows, self.normalised_rows = mapped("<u4", rows), mapped("<u4", rows)
        self.gram_rows = mapped("<u4", grams)


def make_signatures(
    data: Path | Sequence[DataFile],
    target: Path,
    *,
    columns: Mapping[str, str] | None = None,
    how: HoldOut | None = None,
    training_digest: str | None = None,
    limits_unfolded: bool = False,
) -> int:
    """Write the signatures of the usable rows of a file, or of several files together, and return how many these are.

    With `how`, these are only the rows that are not held out, and they must have the digest that the training recorded.
    With `limits_unfolded`, Parquet is limited as by `file_values`. Raises SplitDiffers, HoldoutError, RowsError, ImportError for Parquet without pyarrow.
    """
    import numpy as np

    exact, normalised, grams, digests = SortedKeys("<u8"), SortedKeys("<u8"), SortedKeys("<u8"), SortedKeys("S32")
    splitter = None if how is None else Splitter(how)
    rows = 0
    values = values_of(as_files(data), columns, limits_unfolded=limits_unfolded)
    for batch in _batches(judge_rows(values, columns=columns, group_by=None if how is None else how.by)):
        texts = [normalised_row(row) for row in batch]
        numbers = np.arange(rows, rows + len(batch), dtype=np.uint32)
        rows += len(batch)
        if rows > MOST_ROWS:
            raise RowsError(f"it has more than {MOST_ROWS:,} rows, which is too many for this comparison")
        hashes, owners = least_hashes(Texts(texts).grams, MOST_KEPT)
        grams.append(hashes, numbers[owners])
        exact.append([row_key(said(row)) for row in batch], numbers)
        normalised.append([row_key(text.encode()) for text in texts], numbers)
        if splitter is not None:
            for row in batch:
                splitter.add(split_unit(row))
            digests.append([row_digest(row) for row in batch], numbers)
    kept = None
    if splitter is not None:
        kept = ~splitter.out()
        if digest_of_sorted(keys[kept[owners]] for keys, owners in digests.sorted()) != training_digest:
            raise SplitDiffers("the same split doesn't give the rows that the training recorded")
    _write(target, exact, normalised, grams, rows, kept)
    return rows if kept is None else int(kept.sum())


def _batches(judged: Iterator[Row | BadRow]) -> Iterator[list[Row]]:
    batch: list[Row] = []
    characters = 0
    for row in judged:
        if isinstance(row, BadRow):
            continue
        batch.append(row)
        characters += _characters(row.fields)
        if len(batch) >= _BATCH_ROWS or characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _characters(value: Any) -> int:
    """Return about how many characters a value of a row has, with all that is in it."""
    if isinstance(value, dict):
        return sum(map(_characters, value.values()))
    return sum(map(_characters, value)) if isinstance(value, list) else len(value) if isinstance(value, str) else 1


def _write(
    target: Path,
    exact: SortedKeys,
    normalised: SortedKeys,
    grams: SortedKeys,
    rows: int,
    kept: npt.NDArray[Any] | None,
) -> None:
    """Write everything in the order of the hashes, each with its row; rows that are not `kept`, (rows,) of bool, are
    left out, and the others renumbered.
    """
    import numpy as np

    number = None if kept is None else np.cumsum(kept, dtype=np.uint32) - np.uint32(1)
    # The first row with each text: a text that many rows have is looked up only once.
    first = np.zeros(rows, bool)
    with target.open("wb") as file, tempfile.TemporaryFile() as beside:

        def write(keys: npt.NDArray[Any], owners: npt.NDArray[Any]) -> int:
            file.write(keys.tobytes())
            beside.write((owners if number is None else number[owners]).astype("<u4").tobytes())
            return len(keys)

        def left(some: SortedKeys) -> Iterator[Part]:
            for keys, owners in some.sorted():
                there = slice(None) if kept is None else kept[owners]
                yield keys[there], owners[there]

        file.write(bytes(_HEADER * 8))
        for keys, owners in left(exact):
            write(keys, owners)
        before = None
        for keys, owners in left(normalised):
            write(keys, owners)
            first[owners[1:][keys[1:] != keys[:-1]]] = True
            first[owners[:1][keys[:1] != before]] = True
            before = keys[-1] if len(keys) else before
        written = 0
        for keys, owners in grams.sorted():
            there = first[owners]
            written += write(keys[there], owners[there])
        beside.seek(0)
        shutil.copyfileobj(beside, file, 1 << 20)
        file.seek(0)
        file.write(np.array([_MAGIC, _LAYOUT, rows if kept is None else kept.sum(), written], "<u8").tobytes())
