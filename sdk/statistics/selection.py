"""How far apart settings that are equally good come out by chance, where the best of them was picked by the same numbers.

Whoever compares the best of m equal settings with the worst searches all their pairs: Holm's correction over m − 1
comparisons finds a difference in 14 % of all sweeps of ten. What holds is the distribution of the highest of m less the
lowest of those that are still in question, which is Tukey's studentised range as long as all are (Hsu, "Multiple
Comparisons", 1996, chapters 4 and 5). Being as good as the best is another question, with one fixed setting on one
side, whichever it is: there Dunnett's one-sided distribution holds (Hsu 1984, multiple comparisons with the best).

Both are drawn, since errors here have two parts, each known from as much as there is of it: rows and seeds.

>>> chances = Chances(10, row_freedom=float("inf"), seed_freedom=None, seed="")
>>> round(chances.apart(10, 1.0).critical(0.05), 1)  # q(0.05; 10, ∞)/√2 = 4.474/√2
3.2
>>> round(chances.ahead(9, 1.0).critical(0.025), 1)  # Dunnett's, one-sided
2.7
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from math import inf, sqrt
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]

#: With these, a p of 0.05 varies by ±0.002 between seeds.
_DRAWS = 10_000


class Chances:
    """What m settings of equal worth score by chance, in units of the estimated standard error of a difference.

    A difference's variance is the sum of a row part and a seed part, of which each is estimated with some degrees of
    freedom; `share`, 0..1, is how much of it is the row part.
    """

    def __init__(self, settings: int, *, row_freedom: float, seed_freedom: int | None, seed: str) -> None:
        import numpy as np

        rng = np.random.default_rng(int.from_bytes(sha256(seed.encode()).digest()))
        self._row_scale = _scale(rng, row_freedom)
        self._seed_scale = _scale(rng, inf if seed_freedom is None else seed_freedom)
        scores = rng.standard_normal((settings, _DRAWS), dtype=np.float32) / np.float32(sqrt(2))
        #: (m, draws): the highest of all less the lowest of the first k.
        self._apart = scores.max(axis=0) - np.minimum.accumulate(scores, axis=0)
        #: (m − 1, draws): by how much the first falls behind any of the k that follow.
        self._ahead = np.maximum.accumulate(scores[1:] - scores[0], axis=0)

    def apart(self, among: int, share: float) -> Chance:
        """By how much the best of all is ahead of the worst of `among` settings, itself one of them."""
        return Chance(self._apart[among - 1] / self._scales(share))

    def ahead(self, among: int, share: float) -> Chance:
        """By how much the best of `among` settings is ahead of one that was named before."""
        return Chance(self._ahead[among - 1] / self._scales(share))

    def _scales(self, share: float) -> Floats:
        """(draws,) the estimated standard error over the true one."""
        import numpy as np

        return np.sqrt(np.float32(share) * self._row_scale + np.float32(1 - share) * self._seed_scale)


@dataclass(frozen=True)
class Chance:
    """The largest differences that chance alone makes, in standard errors: (draws,)."""

    drawn: Floats

    def p(self, t: float) -> float:
        """How often chance makes a difference of t or more."""
        return (1 + int((self.drawn >= t).sum())) / (1 + len(self.drawn))

    def critical(self, alpha: float) -> float:
        """The difference beyond which `p` is below `alpha`."""
        import numpy as np

        place = len(self.drawn) - int(alpha * (len(self.drawn) + 1))
        return float(np.partition(self.drawn, place)[place])


def _scale(rng: np.random.Generator, freedom: float) -> Floats:
    """(draws,) an estimated variance over the true one."""
    import numpy as np

    if freedom == inf:
        return np.ones(_DRAWS, dtype=np.float32)
    return (rng.chisquare(freedom, size=_DRAWS) / freedom).astype(np.float32)
