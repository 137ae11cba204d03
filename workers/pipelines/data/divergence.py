"""How far one model's predictions are from another's."""

from __future__ import annotations

from typing import Any

#: Of logits that are compared in float64 at a time, of a vocabulary of 262,144 some 100 MB.
_ROWS = 16


def kl_sum(bare: Any, adapted: Any) -> float:
    """Return the sum of KL(base ‖ base + adapter) in nats over the rows of logits, (rows, …, vocabulary).

    In float64, a few rows at a time: of a faint adapter float32 leaves nothing. It is never negative, but the rounding of a sum
    whose terms cancel may be. Tokens that only the adapted model has come last, and have no probability without it.
    """
    total = 0.0
    for p, q in zip(bare.split(_ROWS), adapted.split(_ROWS), strict=True):
        p, q = p.double().log_softmax(-1), q.double().log_softmax(-1)[..., : p.shape[-1]]
        total += float((p.exp() * (p - q)).sum())
    return total
