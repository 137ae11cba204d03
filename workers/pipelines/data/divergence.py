"""How far one model's predictions are from another's."""

from __future__ import annotations

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

    Tokens that only the adapted model has come last, and have no probability in the bare one.
    """
    if not len(bare):
        return Divergence(*(torch.zeros(bare.shape[:-1], dtype=torch.float64) for _ in range(2)))
    parts = [_of(p, q) for p, q in few_rows(bare, adapted)]
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


def _directly(bare: Any, adapted: Any) -> Divergence:
    """KL by its definition, all in float64, which takes longer."""
    bare, adapted = bare.double(), adapted.double()
    p, q = bare.log_softmax(-1), adapted.log_softmax(-1)[..., : bare.shape[-1]]
    return Divergence((p.exp() * (p - q)).sum(-1), adapted.logsumexp(-1) - bare.logsumexp(-1))
