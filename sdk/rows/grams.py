"""Hashes of the 13-grams and words of many texts at once, the signature of a text, and keys that similar texts share.

A 13-gram is 13 consecutive characters of a normalised text; it needs no words, so it works for any script. Of every 4
consecutive grams, winnowing keeps the one with the least hash (Schleimer, Wilkerson, Aiken 2003): if two texts share 16
consecutive characters, at least one of the grams in these is kept for both. A hash depends on the characters alone, so
hashes of any two files can be compared.

>>> batch = Texts(["the quick brown fox jumps", "the quick brown fox sleeps", "short"])
>>> len(set(signatures(batch)[0].tolist()) & set(signatures(batch)[1].tolist())) > 0, len(signatures(batch)[2])
(True, 0)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy.typing as npt

#: How many characters a gram has.
GRAM = 13
#: How many hashes a signature has at most: the least ones.
MOST_SIGNATURE = 64
#: Only this many characters of a longer text are looked at.
MOST_CHARACTERS = 1_000_000
#: This many texts may have something in common by chance.
_FEW = 10
#: Texts that share all 4 least hashes of a band are compared: of those with a Jaccard index of 0.8, 99 in 100 share a
#: band.
_BANDS, _ROWS_OF_BAND = 10, 4
#: The bands of grams and those of words.
BANDS = 2 * _BANDS

#: An odd number, and its inverse modulo 2^64.
_BASE = 0x9E3779B97F4A7C15
_INVERSE = pow(_BASE, -1, 2**64)
_MOST = 2**64 - 1


class Texts:
    """Normalised texts, one after the other, as code points."""

    def __init__(self, texts: Sequence[str]) -> None:
        import numpy as np

        kept = [text[:MOST_CHARACTERS] for text in texts]
        #: (characters,) code points, and (texts + 1,) where each text begins in them.
        self.codes = np.frombuffer("".join(kept).encode("utf-32-le"), dtype="<u4")
        self.starts = np.zeros(len(kept) + 1, np.int64)
        np.cumsum([len(text) for text in kept], out=self.starts[1:])
        powers, self._inverse = _powers(1 << len(self.codes).bit_length())
        #: (characters + 1,) sums of code · base^position: the difference of two is a hash of the characters between.
        self._sums = np.zeros(len(self.codes) + 1, np.uint64)
        np.cumsum((self.codes + np.uint64(1)) * powers[: len(self.codes)], out=self._sums[1:])

    def hashes(self, starts: npt.NDArray[Any], ends: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return a hash of the characters from each start to its end, whatever their position; uint64."""
        import numpy as np

        found: npt.NDArray[Any] = (self._sums[ends] - self._sums[starts]) * self._inverse[starts]
        # The finaliser of splitmix64: each bit of the input changes half of the bits of the output.
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            found ^= found >> np.uint64(shift)
            found *= np.uint64(factor)
        found ^= found >> np.uint64(31)
        return found

    @cached_property
    def _owners(self) -> npt.NDArray[Any]:
        """(characters,) the text that each character belongs to."""
        import numpy as np

        return np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))

    @cached_property
    def grams(self) -> Segments:
        """The winnowed hashes of the 13-grams of each text, in their order."""
        import numpy as np

        places = np.arange(len(self.codes))
        owners = self._owners
        whole = places + GRAM <= self.starts[1:][owners]
        hashes = np.full(len(self.codes) + 3, _MOST, np.uint64)
        hashes[places[whole]] = self.hashes(places[whole], places[whole] + GRAM)
        # At the end of a text windows are shorter, because no gram begins at its last 12 characters.
        pairs = np.minimum(hashes[:-1], hashes[1:])
        least = np.minimum(pairs[:-2], pairs[2:])[whole]
        owners = owners[whole]
        new = np.ones(len(least), bool)
        new[1:] = (least[1:] != least[:-1]) | (owners[1:] != owners[:-1])
        return Segments(least[new], owners[new], len(self.starts) - 1)

    @cached_property
    def words(self) -> Segments:
        """The hashes of the words of each text, which are separated by white space."""
        import numpy as np

        blank = (self.codes == ord(" ")) | (self.codes == ord("\n"))
        first, last = ~blank, ~blank
        inner = self.starts[1:-1]
        inner = inner[(inner > 0) & (inner < len(blank))]
        follows, precedes = ~blank[:-1], ~blank[1:]
        follows[inner - 1] = False
        precedes[inner - 1] = False
        first[1:] &= ~follows
        last[:-1] &= ~precedes
        starts = np.flatnonzero(first)
        owners = self._owners[starts]
        return Segments(self.hashes(starts, np.flatnonzero(last) + 1), owners, len(self.starts) - 1)


class Segments:
    """Hashes in the order of the texts that they belong to; `owners` has the text of each."""

    def __init__(self, hashes: npt.NDArray[Any], owners: npt.NDArray[Any], texts: int) -> None:
        self.hashes, self.owners, self.texts = hashes, owners, texts

    def bands(self, salt: int) -> npt.NDArray[Any]:
        """Return (texts, bands) keys, uint32, of which similar texts share some; 0 for texts without hashes."""
        import numpy as np

        keys = np.zeros((self.texts, _BANDS), np.uint32)
        if not len(self.hashes):
            return keys
        begins = np.flatnonzero(np.concatenate([[True], self.owners[1:] != self.owners[:-1]]))
        there = self.owners[begins]
        factors = _factors(salt)
        for band in range(_BANDS):
            key = np.zeros(len(begins), np.uint64)
            for factor in factors[band * _ROWS_OF_BAND : (band + 1) * _ROWS_OF_BAND]:
                # With each factor, another hash may be the least.
                key = (key + np.minimum.reduceat(self.hashes * factor, begins)) * np.uint64(_BASE)
                key ^= key >> np.uint64(29)
            keys[there, band] = np.maximum(key >> np.uint64(32), 1)
        return keys


def signatures(texts: Texts) -> list[npt.NDArray[Any]]:
    """Return the signature of each text: its winnowed 13-grams, at most `MOST_SIGNATURE`, sorted; uint64."""
    import numpy as np

    hashes, owners = least_hashes(texts.grams, MOST_SIGNATURE)
    borders = np.searchsorted(owners, np.arange(1, texts.grams.texts))
    return np.split(hashes, borders)[: texts.grams.texts]


def least_hashes(segments: Segments, most: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return the `most` least hashes of each text, sorted and without repeats, and the text that each belongs to: (n,)
    uint64, (n,) int64.
    """
    import numpy as np

    order = np.lexsort((segments.hashes, segments.owners))
    hashes, owners = segments.hashes[order], segments.owners[order]
    new = np.ones(len(hashes), bool)
    new[1:] = (hashes[1:] != hashes[:-1]) | (owners[1:] != owners[:-1])
    hashes, owners = hashes[new], owners[new]
    rank = np.arange(len(owners)) - np.searchsorted(owners, owners)
    return hashes[rank < most], owners[rank < most]


def jaccard(one: str, other: str, *, without: frozenset[str] = frozenset()) -> float:
    """Return the Jaccard index of the words or of the 13-grams of two normalised texts, whichever is greater; the words
    and grams in `without` are left out of both.

    >>> jaccard("a b c d", "a b c e"), jaccard("a b c d", "a b c e", without=frozenset("abc"))
    (0.6, 0.0)
    """
    words = _index(set(one.split()) - without, set(other.split()) - without)
    return max(words, _index(_grams(one) - without, _grams(other) - without))


def in_most(texts: Sequence[str]) -> frozenset[str]:
    """Return the words and 13-grams that more than half of the normalised texts have, and more than `_FEW` of them."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update({*text.split(), *_grams(text)})
    return frozenset(part for part, count in counts.items() if count > max(len(texts) / 2, _FEW))


def contained(one: str, other: str) -> float:
    """Return the share of a text's 13-grams that another text has too; 0 for a text without any."""
    grams = _grams(one)
    return len(grams & _grams(other)) / len(grams) if grams else 0.0


def _index(one: set[str], other: set[str]) -> float:
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared) if shared else 0.0


def _grams(text: str) -> set[str]:
    return {text[at : at + GRAM] for at in range(min(len(text), MOST_CHARACTERS) - GRAM + 1)}


@lru_cache(maxsize=1)
def _powers(count: int) -> tuple[Any, Any]:
    """Return the first powers of the base, and of its inverse, modulo 2^64."""
    import numpy as np

    found = []
    for factor in (_BASE, _INVERSE):
        powers = np.full(count + 1, factor, np.uint64)
        powers[0] = 1
        found.append(np.cumprod(powers, dtype=np.uint64))
    return found[0], found[1]


@lru_cache(maxsize=2)
def _factors(salt: int) -> list[Any]:
    import numpy as np

    random = np.random.Generator(np.random.PCG64(salt))
    return list(random.integers(0, 2**63, _BANDS * _ROWS_OF_BAND, dtype=np.uint64) * np.uint64(2) + np.uint64(1))
