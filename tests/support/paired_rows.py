"""Rows of two models whose true difference is known: lognormal lengths, skewed differences, groups that go together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: Parameters of the lognormal number of tokens per row.
MEDIAN_TOKENS, SIGMA = 20.0, 1.0
#: How much more a row that is e times as long differs, per token.
SLOPE = 0.1
#: Σ(d·tokens)/Σtokens over all rows: E[z·e^z]/E[e^z] = 1 for a standard normal z.
TRUE_DIFFERENCE = SLOPE * SIGMA


@dataclass(frozen=True)
class Rows:
    """(rows,) each: what the second scored more in a row, its tokens, its group."""

    sums: np.ndarray
    tokens: np.ndarray
    groups: np.ndarray


def lognormal_rows(rng: np.random.Generator, rows: int, *, group_rows: int = 0) -> Rows:
    """Draw rows of lognormal length, whose differences per token are exponential, and larger in longer rows.

    With `group_rows`, groups of 1 to `group_rows` rows share half of the variance of their differences. Otherwise each
    row is a group.
    """
    sizes = np.tile(np.arange(1, group_rows + 1), rows) if group_rows else np.ones(rows, dtype=int)
    groups = np.repeat(np.arange(len(sizes)), sizes)[:rows]
    own, shared = rng.exponential(size=rows) - 1, (rng.exponential(size=rows) - 1)[groups]
    noise = (own + shared) / np.sqrt(2) if group_rows else own
    z = rng.normal(0, SIGMA, rows)
    tokens = MEDIAN_TOKENS * np.exp(z)
    return Rows((noise + SLOPE * z) * tokens, tokens, groups)


def alike(rng: np.random.Generator, rows: int, *, group_rows: int = 0) -> Rows:
    """Draw rows of two equal models: it is random which of the two gets which of two skewed numbers."""
    drawn = lognormal_rows(rng, rows, group_rows=group_rows)
    return Rows(drawn.sums * rng.choice([-1.0, 1.0], size=rows)[drawn.groups], drawn.tokens, drawn.groups)
