"""The scores of an evaluation by row, as a file: one JSON object per line, in the order of the rows, compressed with gzip.

The same rows give the same bytes on the same machine: nothing about the time or the machine is written.

>>> import io
>>> file = io.BytesIO()
>>> write_rows(file, [RowScore(row=0, loss_sum=0.1, tokens=2, prediction="a"), RowScore(row=2, tokens=1)])
2
>>> [(score.row, score.loss_sum) for score in read_rows(io.BytesIO(file.getvalue()))]
[(0, 0.1), (2, None)]
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterable, Iterator
from typing import IO, Protocol, cast

from pydantic import ValidationError

from sdk.schemas.codes import explain_validation
from sdk.schemas.evaluation import RowScore
from sdk.schemas.wire import read_json

#: Longest line, with the longest prediction and many scores.
MOST_LINE_BYTES = 64 * 1024
#: The most that a file may contain, so that a few bytes can't expand into many.
MOST_ROWS = 10_000_000
MOST_UNPACKED_BYTES = 4 * 1024**3
#: A registry unpacks this much of any file, and beyond that so many times its size: rows of plain numbers unpack to some
#: 20 times theirs.
ANY_UNPACKED_BYTES, MOST_UNPACKED_TIMES = 256 * 1024**2, 100


def row_file_name(digest: str) -> str:
    """A worker's name for a file on its way to the registry."""
    return f"rows-{digest}.jsonl.gz"


class Readable(Protocol):
    """A source of bytes that is read once, from start to end."""

    def read(self, size: int = -1, /) -> bytes:
        """Return the next bytes; empty at the end."""


class RowFileError(ValueError):
    """The file isn't one of scores by row; the message says where it is wrong."""


def write_rows(file: IO[bytes], scores: Iterable[RowScore]) -> int:
    """Write scores to an open file; return how many there were. Raises RowFileError for rows out of order."""
    count, last = 0, -1
    with gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=file, mtime=0) as packed:
        for score in scores:
            if score.row <= last:
                raise RowFileError(f"row {score.row} comes after row {last}")
            last, count = score.row, count + 1
            ordered = score.model_copy(update={"scores": dict(sorted(score.scores.items()))})
            packed.write(ordered.model_dump_json().encode() + b"\n")
    return count


def most_unpacked_bytes(size_bytes: int) -> int:
    """How much a registry unpacks of a file of this size, in bytes."""
    return min(MOST_UNPACKED_BYTES, ANY_UNPACKED_BYTES + MOST_UNPACKED_TIMES * size_bytes)


def unpacked_bytes(file: Readable, most: int) -> int:
    """Return how many bytes a file unpacks to, up to `most`, which is returned for one that can't be unpacked too."""
    count = 0
    try:
        with gzip.GzipFile(fileobj=cast("IO[bytes]", file), mode="rb") as packed:
            while count < most and (part := packed.read(min(1 << 16, most - count))):
                count += len(part)
    except (EOFError, gzip.BadGzipFile, zlib.error):
        return most
    return count


def read_rows(
    file: Readable, *, most_rows: int = MOST_ROWS, most_bytes: int = MOST_UNPACKED_BYTES
) -> Iterator[RowScore]:
    """Yield the scores of a file while reading it. Raises RowFileError if it isn't such a file, or unpacks to more rows
    or bytes; fields of a later release are ignored.
    """
    number, last, unpacked_bytes = 0, -1, 0
    try:
        with gzip.GzipFile(fileobj=cast("IO[bytes]", file), mode="rb") as packed:
            lines = io.BufferedReader(packed, 1 << 16)
            while line := lines.readline(MOST_LINE_BYTES + 1):
                number, unpacked_bytes = number + 1, unpacked_bytes + len(line)
                if len(line) > MOST_LINE_BYTES:
                    raise RowFileError(f"line {number} is longer than {MOST_LINE_BYTES} bytes")
                if number > most_rows or unpacked_bytes > most_bytes:
                    raise RowFileError(f"line {number} is beyond what such a file may hold")
                score = read_json(RowScore, line)
                if score.row <= last:
                    raise RowFileError(f"line {number}: row {score.row} comes after row {last}")
                last = score.row
                yield score
    except ValidationError as error:
        message, _ = explain_validation(list(error.errors()))
        raise RowFileError(f"line {number}: {message}") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise RowFileError(f"after line {number} it is not gzip ({error})") from error
