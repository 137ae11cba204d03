"""Halves of modules that are not kept in memory while a file passes: they lie in temporary files, and a block of their
rows is read where it is needed.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from registry.errors import Unavailable
from sdk.formats.safetensors import ITEM_BYTES
from sdk.lora.tensors import NUMPY_TYPES, Columns

if TYPE_CHECKING:
    import numpy.typing as npt

#: How much of a B of several experts is sorted by expert at a time, and how much is read of columns of which only some
#: are wanted: one row at least.
SORTED_BYTES, _READ_BYTES = 1024 * 1024, 256 * 1024


class TemporaryBytes:
    """A file without a name, which is gone with this object. Its methods raise Unavailable if there is no room."""

    def __init__(self) -> None:
        try:
            with tempfile.TemporaryFile(prefix="halves-") as file:
                self._file = os.dup(file.fileno())
        except OSError as error:
            raise _no_room(error) from error
        weakref.finalize(self, os.close, self._file)
        #: Where the next bytes are appended.
        self.end = 0

    def write(self, data: npt.NDArray[Any], at: int) -> None:
        """Write the numbers of an array, row after row."""
        left = memoryview(data.tobytes())
        try:
            while left:
                written = os.pwrite(self._file, left, at)
                left, at = left[written:], at + written
        except OSError as error:
            raise _no_room(error) from error

    def append(self, data: npt.NDArray[Any]) -> None:
        """Write the numbers of an array after all others."""
        self.write(data, self.end)
        self.end += data.nbytes

    def read_into(self, target: npt.NDArray[Any], at: int) -> None:
        """Fill an array, whose numbers must be next to each other, with the bytes from `at` on."""
        import numpy as np

        left = target.reshape(-1).view(np.uint8)
        try:
            while len(left):
                count = os.preadv(self._file, [left.data], at)
                if not count:
                    raise EOFError("a temporary file is shorter than what was written to it")
                left, at = left[count:], at + count
        except OSError as error:
            raise _no_room(error) from error


def _no_room(error: OSError) -> Unavailable:
    return Unavailable(f"the registry's temporary files can't be used ({error.strerror}); try again later")


@dataclass(frozen=True)
class FiledMatrix:
    """A matrix in a file, row after row, or its transpose: as much of an array as `Columns` uses."""

    file: TemporaryBytes
    #: Where its first byte is.
    at: int
    #: (rows, columns) in the file.
    stored: tuple[int, int]
    dtype: str
    #: Whether it is the transpose of what is in the file.
    turned: bool
    #: Its columns: from one of the whole up to another.
    begin: int
    end: int

    @property
    def shape(self) -> tuple[int, int]:
        """(n, r)."""
        return self.stored[1 if self.turned else 0], self.end - self.begin

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return self.shape[0] * self.shape[1]

    def __getitem__(self, key: slice | tuple[slice, slice]) -> Any:
        """Return the rows of a slice as an array; for `[:, columns]` another such matrix, and nothing is read."""
        if isinstance(key, tuple):
            first, last, _ = key[1].indices(self.shape[1])
            return replace(self, begin=self.begin + first, end=self.begin + last)
        first, last, _ = key.indices(self.shape[0])
        return self._of_transpose(first, last) if self.turned else self._of_rows(first, last)

    def _of_rows(self, first: int, last: int) -> npt.NDArray[Any]:
        import numpy as np

        width, item = self.stored[1], ITEM_BYTES[self.dtype]
        found = np.empty((last - first, self.end - self.begin), NUMPY_TYPES[self.dtype])
        step = max(1, _READ_BYTES // (width * item))
        for row in range(first, last, step):
            whole = np.empty((min(step, last - row), width), found.dtype)
            self.file.read_into(whole, self.at + row * width * item)
            found[row - first : row - first + len(whole)] = whole[:, self.begin : self.end]
        return found

    def _of_transpose(self, first: int, last: int) -> npt.NDArray[Any]:
        import numpy as np

        width, item = self.stored[1], ITEM_BYTES[self.dtype]
        found = np.empty((self.end - self.begin, last - first), NUMPY_TYPES[self.dtype])
        if last - first == width:
            self.file.read_into(found, self.at + self.begin * width * item)
        else:
            for row, target in zip(range(self.begin, self.end), found, strict=True):
                self.file.read_into(target, self.at + (row * width + first) * item)
        return found.T


@dataclass(frozen=True)
class FiledStack:
    """Matrices of one shape in a file, one after the other: those of a module's experts."""

    file: TemporaryBytes
    at: int
    count: int
    #: (rows, columns) of each in the file.
    stored: tuple[int, int]
    dtype: str
    #: Whether they are the transposes of what is in the file.
    turned: bool = False

    def each(self) -> Iterator[Columns]:
        """Yield each of them, (n, r)."""
        rows, columns = self.stored
        for index in range(self.count):
            at = self.at + index * self._one_bytes
            end = rows if self.turned else columns
            yield Columns(FiledMatrix(self.file, at, self.stored, self.dtype, self.turned, 0, end), self.dtype)

    @property
    def shape(self) -> tuple[int, int]:
        """(n, count·r), side by side."""
        rows, columns = self.stored
        return (columns, rows * self.count) if self.turned else (rows, columns * self.count)

    @property
    def nbytes(self) -> int:
        """How many bytes they take."""
        return self.count * self._one_bytes

    @property
    def _one_bytes(self) -> int:
        return self.stored[0] * self.stored[1] * ITEM_BYTES[self.dtype]

    def by_expert(self, experts: int) -> FiledStack:
        """Return the (n, r) of each expert of the B that this one matrix is, of (n, r·experts), rank by rank: each row
        is sorted anew, in a file of its own.
        """
        import numpy as np

        if experts == 1:
            return self
        rows, width = self.stored
        item, rank, target = ITEM_BYTES[self.dtype], width // experts, TemporaryBytes()
        step = max(1, SORTED_BYTES // (width * item))
        for first in range(0, rows, step):
            block = np.empty((min(step, rows - first), width), NUMPY_TYPES[self.dtype])
            self.file.read_into(block, self.at + first * width * item)
            for expert in range(experts):
                target.write(block[:, expert::experts], (expert * rows + first) * rank * item)
        return FiledStack(target, 0, experts, (rows, rank), self.dtype)


def filed(parts: Iterable[Columns], file: TemporaryBytes) -> FiledStack:
    """Append columns of one shape and type to a file."""
    at, count, stored, dtype = file.end, 0, (0, 0), ""
    for part in parts:
        file.append(part.raw)
        count, stored, dtype = count + 1, (int(part.raw.shape[0]), int(part.raw.shape[1])), part.dtype
    return FiledStack(file, at, count, stored, dtype)
