"""Logits that are needed again later, kept on disk: with a large vocabulary they would take a gigabyte of memory."""

from __future__ import annotations

import tempfile
import weakref
from typing import Any

import torch

from workers.pipelines.data.divergence import few_rows


class HeldLogits:
    """Batches of logits at full precision, in a file without a name that goes with this object.

    >>> held = HeldLogits()
    >>> held.append(torch.tensor([[0.5, 0.1], [2.0, 3.0]]))
    >>> torch.equal(held.read(0), torch.tensor([[0.5, 0.1], [2.0, 3.0]]))
    True
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - it is read as long as this object is there
        weakref.finalize(self, self._file.close)
        #: For each batch its shape, its type, and its offset and length in the file, in bytes.
        self._batches: list[tuple[tuple[int, ...], Any, int, int]] = []

    def append(self, logits: Any) -> None:
        """Store the next batch, (tokens, vocabulary), in 16 bits if it was widened from those. Raises OSError if the
        disk is full.
        """
        narrow = _narrow(logits).cpu().contiguous()
        self._batches.append((tuple(narrow.shape), narrow.dtype, self._file.tell(), narrow.nbytes))
        self._file.write(memoryview(narrow.view(torch.uint8).numpy()))
        self._file.flush()

    def read(self, number: int) -> Any:
        """Return a batch by its number, from 0, on the CPU."""
        shape, dtype, start, length = self._batches[number]
        buffer = bytearray(length)
        self._file.seek(start)
        self._file.readinto(buffer)
        return torch.frombuffer(buffer, dtype=dtype).reshape(shape) if length else torch.empty(shape, dtype=dtype)


def _narrow(logits: Any) -> Any:
    """Return float32 in 16 bits if it was widened from those."""
    if logits.dtype == torch.float32:
        for dtype in (torch.bfloat16, torch.float16):
            if all(torch.equal(part.to(dtype).float(), part) for (part,) in few_rows(logits)):
                return logits.to(dtype)
    return logits
