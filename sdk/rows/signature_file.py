"""The signatures of all rows of a file, sorted, in one file: made once, and held against those of another file in no time.

Of each row there are a hash of its fields, one of its normalised text, and the `MOST_KEPT` least hashes of its winnowed
13-grams, each beside the row's number. It takes some 300 bytes a row on the disk; making it takes a scratch
folder as large, and some 100 bytes a row of memory.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from sdk.formats.rows import BadRow, Row, RowsError, judge_rows
from sdk.rows.data_files import DataFile, as_files, values_of
from sdk.rows.grams import Texts, least_hashes
from sdk.rows.holdout import HoldOut, Splitter, digest_of_digests, split_unit
from sdk.rows.spool import Column
from sdk.rows.texts import normalised_row, row_digest, row_key, said

if TYPE_CHECKING:
    import numpy.typing as npt

#: Hashes of 13-grams that are kept of a row, of the `MOST_SIGNATURE` of its signature.
MOST_KEPT = 24
#: Rows of a file: half a gigabyte of memory.
MOST_ROWS = 5_000_000
#: "rows" in hexadecimal, and the number of this layout.
_MAGIC, _LAYOUT = 0x726F7773, 1
_HEADER = 4
#: Rows, and characters of their texts, that are hashed at once.
_BATCH_ROWS, _BATCH_CHARACTERS = 8192, 1 << 19
#: Files that hashes are sorted in, by their first bits.
_BUCKET_BITS = 6
_BUCKETS = 1 << _BUCKET_BITS
#: Hashes that are sorted at once. The least of a long row lie in the first buckets, which are sorted in parts then.
_MOST_AT_ONCE = 1 << 20


class SplitDiffers(ValueError):  # noqa: N818 - it is an answer
    """The rows that are left of a split are not those that the training recorded. The message is a sentence without its end."""


class SignatureFile:
    """Signatures in a file, mapped and not read. Raises ValueError for another file."""

    def __init__(self, path: Path) -> None:
        import numpy as np

        size = path.stat().st_size
        header = np.fromfile(path, "<u8", _HEADER) if size >= _HEADER * 8 else np.zeros(_HEADER, "<u8")
        rows, grams = int(header[2]), int(header[3])
        if header[:2].tolist() != [_MAGIC, _LAYOUT] or size != _HEADER * 8 + 12 * (2 * rows + grams):
            raise ValueError("it is no file of signatures of this release")
        place = _HEADER * 8

        def mapped(dtype: str, count: int) -> npt.NDArray[Any]:
            nonlocal place
            found = np.memmap(path, dtype, "r", place, (count,)) if count else np.empty(0, dtype)
            place += found.nbytes
            return found

        self.rows = rows
        #: (rows,) and (grams,) of uint64, each sorted.
        self.exact, self.normalised, self.grams = mapped("<u8", rows), mapped("<u8", rows), mapped("<u8", grams)
        #: Of uint32, the row that each of these is of; grams are those of the first row with a normalised text.
        self.exact_rows, self.normalised_rows = mapped("<u4", rows), mapped("<u4", rows)
        self.gram_rows = mapped("<u4", grams)


def make_signatures(
    data: Path | Sequence[DataFile],
    target: Path,
    *,
    columns: Mapping[str, str] | None = None,
    how: HoldOut | None = None,
    training_digest: str | None = None,
) -> int:
    """Write the signatures of the usable rows of a file, or of several together; with `how` only of those that are not held out, which must have
    the digest that the training recorded. Return how many rows these are.

    Raises SplitDiffers, HoldoutError, RowsError, ImportError for Parquet without pyarrow.
    """
    import numpy as np

    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="adapterctl-signatures-")))
        exact, normalised = (
            stack.enter_context(closing(Column(scratch, name, "u8"))) for name in ("exact", "normalised")
        )
        buckets = stack.enter_context(closing(_Buckets(scratch)))
        splitter = None if how is None else Splitter(how)
        digests = bytearray()
        for batch in _batches(data, columns, None if how is None else how.by):
            texts = [normalised_row(row) for row in batch]
            if exact.rows + len(batch) > MOST_ROWS:
                raise RowsError(f"it has more than {MOST_ROWS:,} rows, which are not looked at for this")
            hashes, owners = least_hashes(Texts(texts).grams, MOST_KEPT)
            buckets.add(hashes, owners + exact.rows)
            exact.append([row_key(said(row)) for row in batch])
            normalised.append([row_key(text.encode()) for text in texts])
            if splitter is not None:
                for row in batch:
                    splitter.add(split_unit(row))
                    digests += row_digest(row)
        kept = np.ones(exact.rows, bool)
        if splitter is not None:
            kept = ~splitter.out()
            found = digest_of_digests(np.frombuffer(digests, "V32")[kept].tolist())
            if found != training_digest:
                raise SplitDiffers("the rows that the training recorded are not found again")
        _write(target, exact, normalised, buckets, kept, scratch)
        return int(kept.sum())


def _batches(
    data: Path | Sequence[DataFile], columns: Mapping[str, str] | None, group_by: str | None
) -> Iterator[list[Row]]:
    batch: list[Row] = []
    characters = 0
    for row in judge_rows(values_of(as_files(data), columns), columns=columns, group_by=group_by):
        if isinstance(row, BadRow):
            continue
        batch.append(row)
        characters += sum(len(value) for value in row.fields.values() if isinstance(value, str))
        if len(batch) >= _BATCH_ROWS or characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _write(
    target: Path, exact: Column, normalised: Column, buckets: _Buckets, kept: npt.NDArray[Any], scratch: Path
) -> None:
    """Sort all, each beside its row; rows that are not `kept`, (rows,) of bool, are left out, and the others numbered anew."""
    import numpy as np

    number = np.cumsum(kept, dtype=np.uint32) - np.uint32(1)
    first = np.zeros(int(kept.sum()), bool)
    with target.open("wb") as file, (scratch / "rows").open("w+b") as rows:
        file.write(bytes(_HEADER * 8))
        for column in (exact, normalised):
            keys = column.between(0, column.rows)[kept]
            order = np.argsort(keys, kind="stable").astype("<u4")
            keys = keys[order]
            file.write(keys.data)
            rows.write(order.data)
        # A text that stands in many rows is looked up once.
        first[order[:1]] = True
        first[order[1:][keys[1:] != keys[:-1]]] = True
        grams = 0
        for hashes, owners in buckets.sorted():
            there = kept[owners]
            there[there] = first[number[owners[there]]]
            file.write(hashes[there].tobytes())
            rows.write(number[owners[there]].astype("<u4").tobytes())
            grams += int(there.sum())
        rows.seek(0)
        shutil.copyfileobj(rows, file, 1 << 20)
        file.seek(0)
        file.write(np.array([_MAGIC, _LAYOUT, len(first), grams], "<u8").tobytes())


def _within(hashes: npt.NDArray[Any], begin: int, end: int | None) -> npt.NDArray[Any]:
    """Return which hashes are at least `begin` and below `end`; None: there is no end."""
    import numpy as np

    found: npt.NDArray[Any] = hashes >= np.uint64(begin)
    return found if end is None else found & (hashes < np.uint64(end))


class _Buckets:
    """Hashes with their rows, in files by the first bits of the hash."""

    def __init__(self, folder: Path) -> None:
        import numpy as np

        self._dtype = np.dtype([("hash", "<u8"), ("row", "<u4")])
        self._files: list[IO[bytes]] = [(folder / f"bucket{number}").open("w+b") for number in range(_BUCKETS)]

    def add(self, hashes: npt.NDArray[Any], rows: npt.NDArray[Any]) -> None:
        """Take hashes and their rows, (n,) each."""
        import numpy as np

        order = np.argsort(hashes, kind="stable")
        found = np.empty(len(hashes), self._dtype)
        found["hash"], found["row"] = hashes[order], rows[order]
        borders = np.arange(1, _BUCKETS, dtype=np.uint64) << np.uint64(64 - _BUCKET_BITS)
        for file, part in zip(self._files, np.split(found, np.searchsorted(found["hash"], borders)), strict=True):
            file.write(part.tobytes())

    def sorted(self) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
        """Yield all hashes in their order, with their rows, a part at a time."""
        import numpy as np

        for file in self._files:
            file.flush()
            begins = self._begins(file)
            for begin, end in zip(begins, [*begins[1:], None], strict=True):
                found = np.concatenate([part[_within(part["hash"], begin, end)] for part in self._parts(file)])
                order = np.argsort(found["hash"], kind="stable")
                yield found["hash"][order], found["row"][order].astype(np.int64)

    def _begins(self, file: IO[bytes]) -> list[int]:
        """Return the hashes at which the parts of a bucket begin that are sorted at once, by a sample of them."""
        import numpy as np

        count = file.seek(0, os.SEEK_END) // self._dtype.itemsize
        parts = -(-count // _MOST_AT_ONCE)
        if parts < 2:
            return [0]
        sample = np.sort(np.concatenate([part["hash"][:: 8 * parts] for part in self._parts(file)]))
        borders = sample[np.arange(1, parts) * len(sample) // parts]
        return [0, *np.unique(borders[borders > 0]).tolist()]

    def _parts(self, file: IO[bytes]) -> Iterator[npt.NDArray[Any]]:
        import numpy as np

        file.seek(0)
        while True:
            part = np.fromfile(file, self._dtype, _MOST_AT_ONCE)
            yield part
            if len(part) < _MOST_AT_ONCE:
                return

    def close(self) -> None:
        """Close the files; the folder is its owner's."""
        for file in self._files:
            file.close()
