"""‖B·A‖ of each adapted module, computed while the file's tensors are read, with bounded memory and work.

PEFT saves the two halves of a module next to each other. If the other half does not come next, a half is kept as the
triangle of its QR decomposition, which is small. What is not small lies in a temporary file, so that a file that passes
takes little memory, whatever its modules are like: `registry.http.routes.PUSH_BYTES` at most. A module that would take
more than the limits allow has no norm.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from registry.artifacts.admission.filed_halves import SORTED_BYTES, FiledStack, TemporaryBytes, filed
from sdk.formats.adapter_files import LoraKey, lora_key
from sdk.formats.safetensors import Header, Kind
from sdk.lora.adapter import has_product
from sdk.lora.delta_norms import MAX_RANK
from sdk.lora.experts import MAX_EXPERTS
from sdk.lora.low_rank import QR_COST, combined, product_norm, split, triangle, triangular_norm
from sdk.lora.module_scales import ModuleScales, ScalesError
from sdk.lora.tensors import Columns, as_rows
from sdk.schemas.lora_config import LoraConfig

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

#: For a half, and in memory; and in a file for all that wait for their other half at once.
_MOST_HALF_BYTES = 64 * 1024 * 1024
_MOST_HELD_BYTES = 1024 * 1024
_MOST_WAITING_BYTES = 64 * 1024 * 1024
#: The numbers of a triangle for which QR is done, which takes some six times its memory.
_MOST_TRIANGLE = 256 * 256
_TRIANGLE_ITEM_BYTES = 8
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
    experts: int
    #: Those of all experts, (…, r·experts): the columns of a B, which go rank by rank, the transposed rows of an A, which
    #: go expert by expert; or each expert's own.
    columns: Columns | FiledStack

    def each(self) -> Iterator[Columns]:
        """Yield the columns of each expert, (…, r)."""
        if isinstance(self.columns, FiledStack):
            return self.columns.each()
        return split(self.columns, self.experts, by_rank=self.part.endswith("B"))

    @property
    def matrix(self) -> tuple[int, int]:
        """(…, r): the shape of one expert's columns."""
        rows, width = (self.columns if isinstance(self.columns, FiledStack) else self.columns.raw).shape
        return int(rows), int(width) // self.experts

    @property
    def work(self) -> float:
        """The work of multiplying its columns with each other."""
        rows, rank = self.matrix
        return float(rows) * rank * rank * self.experts

    @property
    def size_bytes(self) -> int:
        return int((self.columns if isinstance(self.columns, FiledStack) else self.columns.raw).nbytes)

    @property
    def has_triangle(self) -> bool:
        """Whether QR may be done, which takes some six times the memory of a triangle."""
        rows, rank = self.matrix
        return min(rows, rank) * rank <= _MOST_TRIANGLE


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
        self._buffer: npt.NDArray[np.uint8] | TemporaryBytes | None = None
        #: The half that was read last, unchanged, and the others by module.
        self._last: tuple[str, _Half] | None = None
        self._waiting: dict[str, _Half] = {}
        self._waiting_bytes = 0
        self._waiting_file: TemporaryBytes | None = None
        self._work_left = _MOST_WORK

    def take(self, index: int, piece: npt.NDArray[np.uint8], at: int) -> None:
        """Take the bytes of a tensor from its byte `at` on; each byte comes once, in order."""
        kind = self._header.kind(index)
        if at == 0:
            self._buffer = self._room(index, kind)
        if self._buffer is None:
            return
        if isinstance(self._buffer, TemporaryBytes):
            self._buffer.append(piece)
        else:
            self._buffer[at : at + len(piece)] = piece
        if at + len(piece) == kind.size_bytes:
            data, self._buffer = self._buffer, None
            key = lora_key(self._header.name(index))
            assert key is not None
            self._complete(index, key, kind, data)

    def _room(self, index: int, kind: Kind) -> npt.NDArray[np.uint8] | TemporaryBytes | None:
        """Return room for a tensor that is half of a product; None for any other, and for one that is too large."""

        import numpy as np

        key = None if len(kind.shape) < 2 else lora_key(self._header.name(index))
        if key is None or key.part not in _HALVES:
            return None
        if key.part.endswith("B"):
            self._told = self._layout.experts(key.module, kind.shape[1])
            if self._told != 1:
                self.stacked.append([index, self._told or 0])
        if kind.size_bytes > _MOST_HALF_BYTES:
            return None
        return np.empty(kind.size_bytes, dtype=np.uint8) if kind.size_bytes <= _MOST_HELD_BYTES else TemporaryBytes()

    def _complete(self, index: int, key: LoraKey, kind: Kind, data: npt.NDArray[np.uint8] | TemporaryBytes) -> None:
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

    def _half(self, index: int, key: LoraKey, kind: Kind, data: npt.NDArray[np.uint8] | TemporaryBytes) -> _Half | None:
        is_b = key.part.endswith("B")
        width = kind.shape[1 if is_b else 0]
        experts = self._told if is_b else self._layout.experts(key.module, width)
        if experts is None or experts > MAX_EXPERTS or width // experts > MAX_RANK:
            return None
        if is_b and math.prod(kind.shape[2:]) != 1:
            # The B of a convolution with a kernel of its own.
            return None
        half = partial(_Half, index, key.part, kind.shape, experts)
        if not isinstance(data, TemporaryBytes):
            rows = as_rows(data, kind.dtype, kind.shape)
            return half(rows if is_b else rows.transposed())
        if not is_b:
            one = width // experts, math.prod(kind.shape[1:])
            return half(FiledStack(data, 0, experts, one, kind.dtype, turned=True))
        whole = FiledStack(data, 0, 1, (kind.shape[0], width), kind.dtype)
        blocks = -(-kind.size_bytes // SORTED_BYTES)
        if experts > 1 and not self._affords(blocks * experts * _WORK_EACH / 10):
            return None
        return half(whole.by_expert(experts))

    def _keep(self, module: str, half: _Half) -> None:
        """Keep a half until the other one comes, as triangles if these are smaller, and only if there is room for
        it.
        """
        rows, rank = half.matrix
        triangles = min(rows, rank) * rank * half.experts * _TRIANGLE_ITEM_BYTES
        if rows > rank and triangles < half.size_bytes and half.has_triangle:
            if not self._affords(half.work * QR_COST + half.experts * _WORK_EACH):
                return
            parts: Iterable[Columns] = map(triangle, half.each())
        else:
            triangles, parts = half.size_bytes, half.each()
        if self._waiting_bytes + triangles > _MOST_WAITING_BYTES:
            return
        if triangles < half.size_bytes or not isinstance(half.columns, FiledStack):
            if self._waiting_file is None or not self._waiting:
                self._waiting_file = TemporaryBytes()
            half = replace(half, columns=filed(parts, self._waiting_file))
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
                if not (a.has_triangle and b.has_triangle) or not self._affords(work * QR_COST + _WORK_EACH):
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
