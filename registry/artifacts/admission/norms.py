"""‖B·A‖ of each adapted module, computed while the file's tensors are read, with bounded memory and work.

PEFT saves the two halves of a module next to each other. If the other half does not come next, a half is kept as the
triangle of its QR decomposition, which is small. A module that would take more than the limits allow has no norm.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sdk.formats.adapter_files import LoraKey, lora_key
from sdk.formats.safetensors import Header, Kind
from sdk.lora.delta_norms import MAX_RANK, combined, has_product, split
from sdk.lora.experts import MAX_EXPERTS
from sdk.lora.low_rank import QR_COST, product_norm, triangle, triangular_norm
from sdk.lora.module_scales import ModuleScales, ScalesError
from sdk.lora.tensors import Columns, as_rows
from sdk.schemas.lora_config import LoraConfig

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

#: For a half that is read whole, and for all the triangles that wait for their other half.
_MOST_HALF_BYTES = 64 * 1024 * 1024
_MOST_WAITING_BYTES = 64 * 1024 * 1024
#: Products of two numbers for one adapter, some 20 to 40 s of one core: an adapter of rank 16 may have 50 GB.
_MOST_WORK = 2e11
#: What each product of matrices costs in addition, however small it is: some 10 µs.
_WORK_EACH = 1e5
_HALVES = {"A", "B", "embedding_A", "embedding_B"}


class Layout:
    """How many experts the A and B of each module are of, by a version's record."""

    def __init__(self, lora: LoraConfig) -> None:
        self._any = bool(lora.target_parameters)
        try:
            self._scales = ModuleScales(lora) if self._any else None
        except ScalesError:
            self._scales = None

    def experts(self, module: str, width: int) -> int | None:
        """Return their number for an A of `width` rows; None if it can't be known."""
        if not self._any:
            return 1
        try:
            found = None if self._scales is None else self._scales.of(module, width=width)
        except ScalesError:
            found = self._scales = None
        return None if found is None else found.experts


@dataclass(frozen=True)
class _Half:
    """A or B of one module."""

    #: Its tensor's.
    index: int
    #: A, B, embedding_A or embedding_B.
    part: str
    shape: tuple[int, ...]
    #: Those of all experts, (…, r·experts): the columns of a B, the transposed rows of an A.
    columns: Columns
    experts: int
    #: Whether its columns go rank by rank, and not expert by expert.
    by_rank: bool

    def each(self) -> Iterator[Columns]:
        """Yield the columns of each expert, (…, r)."""
        return split(self.columns, self.experts, by_rank=self.by_rank)

    @property
    def work(self) -> float:
        """The work of multiplying its columns with each other."""
        return float(self.columns.raw.size * self.columns.raw.shape[1] / self.experts)

    @property
    def size_bytes(self) -> int:
        return int(self.columns.raw.nbytes)

    def triangles(self) -> _Half:
        """Return the same half with each expert's columns replaced by their triangle."""

        import numpy as np

        found = np.hstack([triangle(columns).raw for columns in self.each()])
        return replace(self, columns=Columns(found, "F64"), by_rank=False)


class PassingNorms:
    """The norms of the modules of a file whose bytes are read in order."""

    def __init__(self, header: Header, lora: LoraConfig) -> None:
        import numpy as np

        self._header = header
        #: By tensor: ‖B·A‖ of the module whose B it is, NaN if there is none.
        self.found = np.full(len(header), np.nan)
        #: Pairs of a B and its number of experts, if that is not 1; 0: not known.
        self.stacked: list[list[int]] = []
        self._layout = Layout(lora)
        #: For the B that is being read.
        self._told: int | None = None
        self._buffer: npt.NDArray[np.uint8] | None = None
        #: The half that was read last, unchanged, and the others by module.
        self._last: tuple[str, _Half] | None = None
        self._waiting: dict[str, _Half] = {}
        self._waiting_bytes = 0
        self._work_left = _MOST_WORK

    def take(self, index: int, piece: npt.NDArray[np.uint8], at: int) -> None:
        """Take the bytes of a tensor from its byte `at` on; each byte comes once, in order."""
        kind = self._header.kind(index)
        if at == 0:
            self._buffer = self._room(index, kind)
        if self._buffer is None:
            return
        self._buffer[at : at + len(piece)] = piece
        if at + len(piece) == len(self._buffer):
            data, self._buffer = self._buffer, None
            key = lora_key(self._header.name(index))
            assert key is not None
            self._complete(index, key, kind, data)

    def _room(self, index: int, kind: Kind) -> npt.NDArray[np.uint8] | None:
        """Return a buffer for a tensor that is half of a product; None for any other, and for one that is too large."""

        import numpy as np

        key = None if len(kind.shape) < 2 else lora_key(self._header.name(index))
        if key is None or key.part not in _HALVES:
            return None
        if key.part.endswith("B"):
            self._told = self._layout.experts(key.module, kind.shape[1])
            if self._told != 1:
                self.stacked.append([index, self._told or 0])
        return np.empty(kind.size_bytes, dtype=np.uint8) if kind.size_bytes <= _MOST_HALF_BYTES else None

    def _complete(self, index: int, key: LoraKey, kind: Kind, data: npt.NDArray[np.uint8]) -> None:
        first, last = self._waiting.pop(key.module, None), self._last
        self._last = None
        if first is not None:
            self._waiting_bytes -= first.size_bytes
        if last is not None and last[0] == key.module:
            first = last[1]
        elif last is not None:
            self._keep(*last)
        second = self._half(index, key, kind, data)
        if second is None:
            return
        if first is None:
            self._last = key.module, second
            return
        a, b = (first, second) if key.part.endswith("B") else (second, first)
        norm = self._norm(a, b)
        if norm is not None and math.isfinite(norm):
            self.found[b.index] = norm

    def _half(self, index: int, key: LoraKey, kind: Kind, data: npt.NDArray[np.uint8]) -> _Half | None:
        rows = as_rows(data, kind.dtype, kind.shape)
        is_b = key.part.endswith("B")
        width = kind.shape[1 if is_b else 0]
        experts = self._told if is_b else self._layout.experts(key.module, width)
        if experts is None or experts > MAX_EXPERTS or width // experts > MAX_RANK:
            return None
        if is_b and rows.raw.shape[1] != width:
            # The B of a convolution with a kernel of its own.
            return None
        return _Half(index, key.part, kind.shape, rows if is_b else rows.transposed(), experts, by_rank=is_b)

    def _keep(self, module: str, half: _Half) -> None:
        """Keep a half until the other one comes, as triangles if these are smaller, and only if there is room for
        it.
        """
        if half.columns.raw.shape[0] > half.columns.raw.shape[1] // half.experts:
            if not self._affords(half.work * QR_COST + half.experts * _WORK_EACH):
                return
            half = half.triangles()
        if self._waiting_bytes + half.size_bytes <= _MOST_WAITING_BYTES:
            self._waiting[module] = half
            self._waiting_bytes += half.size_bytes

    def _norm(self, a: _Half, b: _Half) -> float | None:
        embedding = a.part == "embedding_A"
        if a.part[:-1] != b.part[:-1] or a.part == b.part or not has_product(a.shape, b.shape, embedding=embedding):
            return None
        if not self._affords(a.work + b.work + b.experts * _WORK_EACH):
            return None
        norms = []
        for out, into in zip(b.each(), a.each(), strict=True):
            found = product_norm(out, into)
            if found is None:
                work = float(out.raw.size + into.raw.size) * out.raw.shape[1]
                if not self._affords(work * QR_COST + _WORK_EACH):
                    return None
                found = triangular_norm(out, into)
            norms.append(found)
        return combined(norms)

    def _affords(self, work: float) -> bool:
        if work > self._work_left:
            return False
        self._work_left -= work
        return True


def stacked_by(tensors: Iterable[tuple[int, str, tuple[int, ...]]], lora: LoraConfig) -> list[list[int]]:
    """Return what `PassingNorms.stacked` would be by a record; `tensors` has the number, name and shape of each."""
    if not lora.target_parameters:
        return []
    layout, found = Layout(lora), []
    for index, name, shape in tensors:
        key = lora_key(name) if len(shape) >= 2 else None
        if key is None or key.part not in ("B", "embedding_B"):
            continue
        experts = layout.experts(key.module, shape[1])
        if experts != 1:
            found.append([index, experts or 0])
    return found
