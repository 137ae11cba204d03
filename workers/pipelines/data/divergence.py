"""How far one model's predictions are from another's, whose logits may be kept on disk: with a large vocabulary they would take a
gigabyte of memory.
"""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

#: How many logits are processed at once: their float64 copies fit into a processor's cache.
_TOGETHER = 2**18
#: How far a logit may rise, in nats, for its float32 probability to be usable as a weight.
_MOST_RISE = 60.0


class Divergence(NamedTuple):
    """Values for each row of logits, (rows, …) in float64 on the CPU."""

    #: KL(base ‖ base + adapter) in nats.
    kl: Any
    #: ln Σe^z of the adapted logits minus ln Σe^z of the bare ones.
    normaliser: Any


def kl_sum(bare: Any, adapted: Any) -> float:
    """Return the sum of KL(base ‖ base + adapter) in nats over the rows of logits, (rows, …, vocabulary)."""
    return float(divergence(bare, adapted).kl.sum())


def divergence(bare: Any, adapted: Any) -> Divergence:
    """Compare adapted logits with bare ones, (rows, …, vocabulary), a few rows at a time.

    Tokens that only one of them has come last. Those of the adapted model have no probability in the bare one; without
    those of the bare model, its other probabilities are compared.
    """
    if not len(bare):
        return Divergence(*(torch.zeros(bare.shape[:-1], dtype=torch.float64) for _ in range(2)))
    make = _of if bare.shape[-1] <= adapted.shape[-1] else _of_fewer
    parts = [make(p, q) for p, q in few_rows(bare, adapted)]
    return Divergence(*(torch.cat(each).cpu() for each in zip(*parts, strict=True)))


def few_rows(logits: Any, *beside: Any) -> Iterator[tuple[Any, ...]]:
    """Yield a few rows of logits, (rows, …, vocabulary), at a time, with the same rows of each further tensor, (rows, …)."""
    rows = max(1, _TOGETHER // max(1, logits[:1].numel()))
    yield from zip(*(each.split(rows) for each in (logits, *beside)), strict=True)


def _of(bare: Any, adapted: Any) -> Divergence:
    """If d is what the adapter adds to a logit, and x = d - E d, with E the mean by the bare probabilities, then KL =
    ln E eˣ = ln(1 + E(eˣ - 1 - x)).

    No term is negative, so a weak adapter, whose probabilities equal the bare ones in float32, keeps as many digits as
    a strong one, although the probabilities that weight the terms are in float32.
    """
    shared = adapted[..., : bare.shape[-1]]
    weights = bare.float().softmax(-1).double()
    total = weights.sum(-1)
    x = shared.double().sub_(bare)
    mean = (weights * x).sum(-1) / total
    x -= mean.unsqueeze(-1)
    if not float(x.amax()) < _MOST_RISE:
        # A token with hardly any probability may have most of it now; or something is not a number.
        return _directly(bare, adapted)
    kl = (x.expm1().sub_(x).mul_(weights).sum(-1) / total).log1p()
    if shared.shape != adapted.shape:
        kl += adapted.double().logsumexp(-1) - shared.double().logsumexp(-1)
    return Divergence(kl, kl + mean)


def _of_fewer(bare: Any, adapted: Any) -> Divergence:
    """Compare adapted logits with those of a bare model that has more tokens."""
    shared = bare[..., : adapted.shape[-1]]
    kl, normaliser = _of(shared, adapted)
    return Divergence(kl, normaliser + shared.double().logsumexp(-1) - bare.double().logsumexp(-1))


def _directly(bare: Any, adapted: Any) -> Divergence:
    """KL by its definition, all in float64, which takes longer."""
    bare, adapted = bare.double(), adapted.double()
    p, q = bare.log_softmax(-1), adapted.log_softmax(-1)[..., : bare.shape[-1]]
    return Divergence((p.exp() * (p - q)).sum(-1), adapted.logsumexp(-1) - bare.logsumexp(-1))


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
