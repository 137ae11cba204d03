"""The tensors of weight files: described by the headers, mapped into memory on access. It needs numpy for numbers alone."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdk.errors import Unavailable, VerificationFailed, disk_explained
from sdk.formats.safetensors import Header, SafetensorsError, read_header

if TYPE_CHECKING:
    import numpy.typing as npt

#: How many numbers of a tensor are held as float64 at a time: 0.5 MiB of them.
_BLOCK_NUMBERS = 2**16
#: The numpy type for each; numpy lacks bfloat16, so its bits are read.
NUMPY_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


@dataclass(frozen=True)
class Columns:
    """A matrix of a few columns (n, r) in the file's own type, BF16 as uint16."""

    #: An array, or a matrix that lies in a file: it has a shape, `[rows]` reads some, `[:, columns]` chooses some.
    raw: Any
    dtype: str

    def transposed(self) -> Columns:
        """Return the transpose without a copy."""
        return Columns(self.raw.T, self.dtype)

    def columns(self, chosen: slice) -> Columns:
        """Return some of the columns without a copy."""
        return Columns(self.raw[:, chosen], self.dtype)

    def products(self, other: Columns) -> npt.NDArray[Any]:
        """Return selfᵀ·other, (r₁, r₂) in float64, of (n, r₁) and (n, r₂): memory does not grow with n."""
        import numpy as np

        ranks = self.raw.shape[1], other.raw.shape[1]
        total = np.zeros(ranks)
        for rows in self._rows(max(ranks)):
            block = self._float64(rows)
            total += block.T @ (block if other is self else other._float64(rows))
        return total

    def blocks(self) -> Iterator[npt.NDArray[Any]]:
        """Yield the rows in float64, a block at a time."""
        for rows in self._rows(self.raw.shape[1]):
            yield self._float64(rows)

    def _rows(self, width: int) -> Iterator[slice]:
        step = max(1, _BLOCK_NUMBERS // width)
        for start in range(0, self.raw.shape[0], step):
            yield slice(start, start + step)

    def _float64(self, rows: slice) -> npt.NDArray[Any]:
        numbers: npt.NDArray[Any] = unpacked(self.raw[rows], self.dtype).astype("<f8")
        return numbers

    def numbers(self) -> npt.NDArray[Any]:
        """Return the whole in float64."""
        return self._float64(slice(None))

    def widened(self) -> npt.NDArray[Any]:
        """Return the whole exactly: in float32, or in float64 if it is stored in that."""
        numbers: npt.NDArray[Any] = unpacked(self.raw, self.dtype)
        return numbers.astype("<f8" if self.dtype == "F64" else "<f4", copy=False)


def unpacked(raw: npt.NDArray[Any], dtype: str) -> npt.NDArray[Any]:
    """Return an array of the file's own type as numbers: the bits of bfloat16, uint16, become the float32 of which they
    are the upper half.
    """
    return (raw.astype("<u4") << 16).view("<f4") if dtype == "BF16" else raw


@dataclass
class MappedFile:
    """A safetensors file whose header has been checked: each tensor has a known type and is inside the file."""

    path: Path
    #: What messages call it, and other files of its folder.
    name: str
    header: Header

    @cached_property
    def data(self) -> mmap.mmap:
        """Its bytes; a page is read on access, and doesn't count as the process's memory. Raises OSError."""
        with self.path.open("rb") as opened:
            # A private mapping is writable, though nobody writes to it; torch warns about read-only ones.
            return mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY)

    def tensors(self) -> dict[str, Tensor]:
        """Return its tensors by name, in the order of their bytes."""
        header, found = self.header, {}
        for index, begin in enumerate(header.begin):
            (dtype, shape), name = header.kind(index), header.name(index)
            first, last = header.data_begin + begin, header.data_begin + header.end(index)
            found[name] = Tensor(name, dtype, shape, self, first, last)
        return found


@dataclass(frozen=True, eq=False, slots=True)
class Tensor:
    """One tensor as the header describes it; offsets count from the start of the file."""

    name: str
    #: The format's name: F32, BF16, U8 …
    dtype: str
    shape: tuple[int, ...]
    file: MappedFile
    begin: int
    end: int

    def bytes(self) -> memoryview:
        """Return its bytes in the mapped file."""
        return memoryview(self.file.data)[self.begin : self.end].toreadonly()

    def rows(self) -> Columns:
        """Return a tensor of (n, …) of floating-point numbers as a matrix of n rows, the other dimensions flattened."""
        import numpy as np

        return as_rows(np.frombuffer(self.bytes(), np.uint8), self.dtype, self.shape)


def as_rows(data: npt.NDArray[Any], dtype: str, shape: tuple[int, ...]) -> Columns:
    """Return the bytes of a tensor of (n, …), uint8, as a matrix of n rows, without a copy."""
    return Columns(data.view(NUMPY_TYPES[dtype]).reshape(shape[0], -1), dtype)


def require_numpy(doing: str, otherwise: str) -> None:
    """Raise Unavailable if numpy is missing, naming the extra to install and what else can be done; `doing` begins the
    sentence.
    """
    try:
        import numpy  # noqa: F401
    except ImportError as error:
        raise Unavailable(
            f"{doing} needs numpy, which is not installed; run: pip install 'adapterctl[local]', {otherwise}"
        ) from error


def open_file(path: Path, *, called: str | None = None, any_dtype: bool = False) -> MappedFile:
    """Read the header of an adapter's file, of floating-point tensors, or with `any_dtype` of a base's; `called` is its
    name in messages.

    Raises OSError, SafetensorsError.
    """
    name = called or path.name
    with path.open("rb") as file:
        return MappedFile(
            path, name, read_header(file, os.fstat(file.fileno()).st_size, called=name, any_dtype=any_dtype)
        )


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of an adapter's file by name.

    Raises VerificationFailed for a file that is not one contiguous, fully described block of floating-point tensors.
    """
    try:
        with disk_explained(f"reading {path}"):
            return open_file(path, called="it").tensors()
    except SafetensorsError as error:
        raise VerificationFailed(
            f"{path} is not a complete safetensors file of an adapter ({error.reason}); pull the version again"
        ) from error
