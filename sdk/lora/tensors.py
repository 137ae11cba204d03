"""The tensors of a safetensors file, read by hand and mapped into memory: numpy is all it needs.

Format: 8 bytes little-endian length N, N bytes of JSON `{name: {dtype, shape, data_offsets}}`, then the data.
"""

from __future__ import annotations

import json
import math
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from sdk.errors import VerificationFailed, disk_explained

if TYPE_CHECKING:
    import numpy.typing as npt

_MAX_HEADER_BYTES = 32 * 1024 * 1024
_MAX_DIMENSIONS = 8
#: Numbers of a tensor that are held as float64 at a time.
_BLOCK_NUMBERS = 2**21
#: What PEFT may write; a name is shown to the user, so that nothing in it may steer a terminal.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,499}")
_ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
#: The type by which numpy reads each; bfloat16, which numpy lacks, is read as its bits.
_NUMPY_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


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

    raw: npt.NDArray[Any]
    dtype: str

    def transposed(self) -> Columns:
        """Return the transpose, which copies nothing."""
        return Columns(self.raw.T, self.dtype)

    def products(self, other: Columns) -> npt.NDArray[Any]:
        """Return selfᵀ·other, (r₁, r₂) in float64, of (n, r₁) and (n, r₂): memory does not grow with n."""
        import numpy as np

        ranks = self.raw.shape[1], other.raw.shape[1]
        step = max(1, _BLOCK_NUMBERS // max(ranks))
        total = np.zeros(ranks)
        for start in range(0, self.raw.shape[0], step):
            rows = slice(start, start + step)
            total += self._float64(rows).T @ other._float64(rows)
        return total

    def _float64(self, rows: slice) -> npt.NDArray[Any]:
        block = self.raw[rows]
        if self.dtype == "BF16":
            # bfloat16 is the upper half of a float32.
            block = (block.astype("<u4") << 16).view("<f4")
        return block.astype("<f8")


@dataclass(frozen=True)
class TensorFile:
    """A file whose header has been checked: each tensor has a known type and lies inside the file."""

    path: Path
    tensors: dict[str, Tensor]
    #: The whole file as bytes, mapped: pages are read when they are looked at.
    data: npt.NDArray[Any]

    def rows(self, tensor: Tensor) -> Columns:
        """Return a tensor of (n, …) as a matrix of n rows, the other dimensions flattened."""
        numbers = self.data[tensor.begin : tensor.end].view(_NUMPY_TYPES[tensor.dtype])
        return Columns(numbers.reshape(tensor.shape[0], -1), tensor.dtype)


def open_tensors(path: Path) -> TensorFile:
    """Open a safetensors file of floating-point tensors.

    Raises VerificationFailed for a header that is too long, no JSON, or describes what the file can't hold.
    """
    import numpy as np

    with disk_explained(f"reading {path}"):
        with path.open("rb") as file:
            tensors = _read_header(file, path)
        return TensorFile(path, tensors, np.memmap(path, dtype=np.uint8, mode="r"))


def read_header(path: Path) -> dict[str, Tensor]:
    """Return the tensors by name; raises VerificationFailed where `open_tensors` would. Needs no numpy and maps nothing."""
    with disk_explained(f"reading {path}"), path.open("rb") as file:
        return _read_header(file, path)


def _read_header(file: IO[bytes], path: Path) -> dict[str, Tensor]:
    size_bytes = path.stat().st_size
    prefix = file.read(8)
    if len(prefix) < 8:
        raise VerificationFailed(f"{path} is empty or cut; pull the version again")
    (length,) = struct.unpack("<Q", prefix)
    if length > min(_MAX_HEADER_BYTES, size_bytes - 8):
        raise VerificationFailed(f"{path} has a header longer than the file or than 32 MiB; pull the version again")
    try:
        header = json.loads(file.read(length).decode("utf-8"), object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise VerificationFailed(
            f"{path} has a header that is no JSON, or names a tensor twice; pull the version again"
        ) from error
    if not isinstance(header, dict):
        raise VerificationFailed(f"{path} has a header that is no object; pull the version again")
    header.pop("__metadata__", None)
    tensors = {name: _tensor(path, name, value, 8 + length, size_bytes) for name, value in header.items()}
    _refuse_overlap(path, tensors)
    return tensors


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def _tensor(path: Path, name: str, value: Any, data_begin: int, size_bytes: int) -> Tensor:
    said = f"{path}: tensor {name[:80]!a}"
    if not _NAME.fullmatch(name):
        raise VerificationFailed(f"{said} has a name that PEFT does not write; pull the version again")
    if not isinstance(value, dict) or not value.keys() >= {"dtype", "shape", "data_offsets"}:
        raise VerificationFailed(f"{said} is not described as a tensor; pull the version again")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _ITEM_BYTES:
        raise VerificationFailed(
            f"{said} has the type {str(dtype)[:20]!a}, not F64, F32, F16 or BF16; pull the version again"
        )
    if not _are_sizes(shape, most=_MAX_DIMENSIONS) or not _are_sizes(offsets, most=2) or len(offsets) != 2:
        raise VerificationFailed(f"{said} has an impossible shape or offset; pull the version again")
    begin, end = offsets
    if data_begin + end > size_bytes:
        raise VerificationFailed(f"{said} lies outside the file, which is cut; pull the version again")
    if end - begin != math.prod(shape) * _ITEM_BYTES[dtype]:
        raise VerificationFailed(f"{said} has a shape that does not fit its bytes; pull the version again")
    return Tensor(dtype, tuple(shape), data_begin + begin, data_begin + end)


def _refuse_overlap(path: Path, tensors: dict[str, Tensor]) -> None:
    """Raise VerificationFailed for bytes that two tensors share: a small file would be the work of a large one."""
    position = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if tensor.begin < position:
            raise VerificationFailed(f"{path}: tensor {name!r} overlaps another; pull the version again")
        position = tensor.end


def _are_sizes(value: Any, *, most: int) -> bool:
    return isinstance(value, list) and len(value) <= most and all(type(n) is int and n >= 0 for n in value)
