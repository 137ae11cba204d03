"""How far apart settings that are equally good come out by chance, where the best of them was picked by the same numbers.

Whoever compares the best of m equal settings with the worst searches all their pairs: Holm's correction over m − 1
comparisons finds a difference in 14 % of all sweeps of ten. What holds is the distribution of the highest of m less the
lowest of those that are still in question, which is Tukey's studentised range as long as all are (Hsu, "Multiple
Comparisons", 1996, chapters 4 and 5). Being as good as the best is another question, with one fixed setting on one
side, whichever it is: there Dunnett's one-sided distribution holds (Hsu 1984, multiple comparisons with the best).

Both are drawn, since errors here have two parts, each known from as much as there is of it: rows and seeds.

>>> chances = Chances(10, row_freedom=float("inf"), seed="")
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
DRAWS = 10_000


class Chances:
    """What m settings of equal worth score by chance, in units of the estimated standard error of a difference.

    A difference's variance is the sum of a row part and a seed part, of which each is estimated with some degrees of
    freedom (0: there is no such part); `share`, 0..1, is how much of it is the row part.
    """

    def __init__(self, settings: int, *, row_freedom: float, seed: str, draws: int = DRAWS) -> None:
        import numpy as np

        self._rng = np.random.default_rng(int.from_bytes(sha256(seed.encode()).digest()))
        scores = self._rng.standard_normal((settings, draws), dtype=np.float32) / np.float32(sqrt(2))
        #: (m, draws): the highest of all less the lowest of the first k.
        self._apart: Floats = scores.max(axis=0) - np.minimum.accumulate(scores, axis=0)
        #: (m − 1, draws): by how much the first falls behind any of the k that follow.
        self._ahead: Floats = np.maximum.accumulate(scores[1:] - scores[0], axis=0)
        self._rows = self._estimated(row_freedom)
        self._seeds = {0: self._estimated(inf)}

    def apart(self, among: int, share: float, *, seed_freedom: int = 0) -> Chance:
        """By how much the best of all is ahead of the worst of `among` settings, itself one of them."""
        return Chance(self._apart[among - 1] / self._scale(share, seed_freedom))

    def ahead(self, among: int, share: float, *, seed_freedom: int = 0) -> Chance:
        """By how much the best of `among` settings is ahead of one that was named before."""
        return Chance(self._ahead[among - 1] / self._scale(share, seed_freedom))

    def _scale(self, share: float, seed_freedom: int) -> Floats:
        """(draws,) the estimated standard error over the true one."""
        import numpy as np

        if seed_freedom not in self._seeds:
            self._seeds[seed_freedom] = self._estimated(seed_freedom)
        variances: Floats = np.float32(share) * self._rows + np.float32(1 - share) * self._seeds[seed_freedom]
        scale: Floats = np.sqrt(variances)
        return scale

    def _estimated(self, freedom: float) -> Floats:
        """(draws,) an estimated variance over the true one."""
        import numpy as np

        freedom = max(freedom, 1.0)
        draws = int(self._apart.shape[1])
        if freedom == inf:
            return np.ones(draws, dtype=np.float32)
        return (self._rng.chisquare(freedom, size=draws) / freedom).astype(np.float32)


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
