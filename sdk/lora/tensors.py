"""The tensors of an adapter's weights, mapped into memory: numpy is all it needs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdk.errors import Unavailable, VerificationFailed, disk_explained
from sdk.formats.safetensors import SafetensorsError, read_header

if TYPE_CHECKING:
    import numpy.typing as npt

#: How many numbers of a tensor are held as float64 at a time: 0.5 MiB of them.
_BLOCK_NUMBERS = 2**16
#: The numpy type for each; numpy lacks bfloat16, so its bits are read.
NUMPY_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


@dataclass(frozen=True)
class Tensor:
    """One tensor as the header describes it; offsets count from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


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
        block = self.raw[rows]
        if self.dtype == "BF16":
            # bfloat16 is the upper half of a float32.
            block = (block.astype("<u4") << 16).view("<f4")
        numbers: npt.NDArray[Any] = block.astype("<f8")
        return numbers

    def numbers(self) -> npt.NDArray[Any]:
        """Return the whole in float64."""
        return self._float64(slice(None))


@dataclass(frozen=True)
class TensorFile:
    """A file whose header has been checked: each tensor has a known type and is inside the file."""

    path: Path
    tensors: dict[str, Tensor]
    #: The whole file as bytes, mapped: pages are read on access.
    data: npt.NDArray[Any]

    def rows(self, tensor: Tensor) -> Columns:
        """Return a tensor of (n, …) as a matrix of n rows, the other dimensions flattened."""
        return as_rows(self.data[tensor.begin : tensor.end], tensor.dtype, tensor.shape)


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


def open_tensors(path: Path) -> TensorFile:
    """Open a safetensors file of floating-point tensors.

    Raises VerificationFailed for a file that is not one contiguous, fully described block of them.
    """
    import numpy as np

    with disk_explained(f"reading {path}"):
        return TensorFile(path, read_tensors(path), np.memmap(path, dtype=np.uint8, mode="r"))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors by name; raises VerificationFailed if `open_tensors` would. Needs no numpy and maps nothing."""
    try:
        with disk_explained(f"reading {path}"), path.open("rb") as file:
            header = read_header(file, os.fstat(file.fileno()).st_size, called="it")
    except SafetensorsError as error:
        raise VerificationFailed(
            f"{path} is not a complete safetensors file of an adapter ({error.reason}); pull the version again"
        ) from error
    found = {}
    for index, begin in enumerate(header.begin):
        dtype, shape = header.kind(index)
        found[header.name(index)] = Tensor(
            dtype, shape, header.data_begin + begin, header.data_begin + header.end(index)
        )
    return found
