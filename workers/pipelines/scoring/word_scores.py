"""NIST, METEOR and CIDEr-D of answers that are lists of words, each compared with the words of its references.

>>> cat, dog = "the cat sat".split(), "a dog ran".split()
>>> nist([cat, dog], [[cat], [dog]]) > nist([cat, cat], [[cat], [dog]]), meteor(cat, ["cats sat".split()])
(True, 0.8928571428571429)
>>> f"{cider_d([cat, dog], [[cat], [dog]]):.1f} of 10, since no answer has four words"
'7.5 of 10, since no answer has four words'
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence, Set
from functools import cache
from typing import Any

Words = Sequence[str]
#: The words that mean the same as a word does in one of its senses.
Synonyms = Callable[[str], Set[str]]
_Grams = Counter[tuple[str, ...]]

#: The longest runs of words that NIST and CIDEr-D count.
_NIST_ORDERS, _CIDER_ORDERS = 5, 4
#: NIST: answers with two thirds of the references' words get half.
_NIST_PENALTY = math.log(0.5) / math.log(1.5) ** 2
#: METEOR's α, β and γ (Lavie and Agarwal 2007).
_ALPHA, _BETA, _GAMMA = 0.9, 3.0, 0.5
#: CIDEr-D: the deviation of lengths, in words.
_SIGMA = 6.0


def _grams(words: Words, order: int) -> _Grams:
    return Counter(zip(*(words[start:] for start in range(order)), strict=False))


def nist(answers: Sequence[Words], references: Sequence[Sequence[Words]]) -> float:
    """Return the NIST score of a corpus (Doddington 2002, eq. 3): what its runs of up to five words that the references
    have too tell, in bits, each order by its number of runs, and less for short answers.

    Of several references, each order counts the one that tells most. Orders that no answer is long enough for are left
    out; 0 without words.
    """
    informations = _informations([words for every in references for words in every])
    total = answered = expected = 0.0
    for order in range(1, _NIST_ORDERS + 1):
        told = runs = 0.0
        lengths = 0
        for words, every in zip(answers, references, strict=True):
            own = _grams(words, order)
            best, length = max((_told(own, _grams(each, order), informations), len(each)) for each in every)
            told, runs, lengths = told + best, runs + own.total(), lengths + length
        if runs:
            total += told / runs
            answered, expected = answered + sum(map(len, answers)), expected + lengths
    ratio = answered / expected if expected else 0.0
    return total * (math.exp(_NIST_PENALTY * math.log(ratio) ** 2) if 0 < ratio < 1 else min(ratio, 1.0))


def _told(own: _Grams, others: _Grams, informations: dict[tuple[str, ...], float]) -> float:
    return math.fsum(informations[gram] * count for gram, count in (own & others).items())


def _informations(references: Sequence[Words]) -> dict[tuple[str, ...], float]:
    """Return what each run's last word tells after those before it, in bits."""
    counts: _Grams = Counter()
    for words in references:
        for order in range(1, _NIST_ORDERS + 1):
            counts.update(_grams(words, order))
    every = sum(map(len, references))
    return {gram: math.log2((counts[gram[:-1]] if gram[1:] else every) / count) for gram, count in counts.items()}


def meteor(answer: Words, references: Sequence[Words], synonyms: Synonyms | None = None) -> float:
    """Return METEOR (Lavie and Agarwal 2007) with the reference that it is greatest for, from 0 to 1, where words match
    if they are equal, have the same stem by Porter's rules for English, or, where there are `synonyms`, if a synonym of
    one's stem is the other's, as nltk has it.
    """
    return max(_meteor(answer, reference, synonyms) for reference in references)


def _meteor(answer: Words, reference: Words, synonyms: Synonyms | None) -> float:
    pairs = sorted(_aligned(answer, reference, synonyms))
    if not pairs:
        return 0.0
    precision, recall = len(pairs) / len(answer), len(pairs) / len(reference)
    mean = precision * recall / (_ALPHA * precision + (1 - _ALPHA) * recall)
    joined = sum((place + 1, other + 1) == after for (place, other), after in itertools.pairwise(pairs))
    return mean * (1 - _GAMMA * math.pow((len(pairs) - joined) / len(pairs), _BETA))


def _aligned(answer: Words, reference: Words, synonyms: Synonyms | None) -> list[tuple[int, int]]:
    """Return the places of words that match, each at most once: equal ones first, and the last ones first."""
    pairs: list[tuple[int, int]] = []
    left, others = list(range(len(answer))), list(range(len(reference)))
    stages: list[tuple[Callable[[str], str], Synonyms]] = [(str, _itself), (_stem, _itself)]
    if synonyms is not None:
        stages.append((_stem, synonyms))
    for form, alike in stages:
        places: dict[str, list[int]] = {}
        for other in others:
            places.setdefault(form(reference[other]), []).append(other)
        found = []
        for place in reversed(left):
            word = form(answer[place])
            same = [free for each in {word, *alike(word)} if (free := places.get(each))]
            if same:
                found.append((place, max(same, key=lambda free: free[-1]).pop()))
        pairs += found
        left = sorted(set(left) - {place for place, _ in found})
        others = sorted(set(others) - {other for _, other in found})
    return pairs


def _itself(word: str) -> Set[str]:
    return {word}


@cache
def _stemmer() -> Any:
    from nltk.stem.porter import PorterStemmer

    return PorterStemmer()


def _stem(word: str) -> str:
    return str(_stemmer().stem(word))


def cider_d(answers: Sequence[Words], references: Sequence[Sequence[Words]]) -> float:
    """Return CIDEr-D (arXiv:1411.5726) of a corpus, from 0 to 10: how near answers are to their references in the runs of
    up to four words that few rows' references have. It is 0 for a single row, of which nothing is rare.
    """
    rows = [
        (_all_grams(words), [_all_grams(each) for each in every])
        for words, every in zip(answers, references, strict=True)
    ]
    having = Counter(gram for _, every in rows for gram in {gram for counts in every for gram in counts})
    most = math.log(len(rows))

    def weighed(counts: _Grams) -> list[dict[tuple[str, ...], float]]:
        orders: list[dict[tuple[str, ...], float]] = [{} for _ in range(_CIDER_ORDERS)]
        for gram, count in counts.items():
            orders[len(gram) - 1][gram] = count * (most - math.log(max(1, having[gram])))
        return orders

    scores = []
    for own, every in rows:
        weights, length = weighed(own), _pairs_of_words(own)
        near = [_near(weights, weighed(each), length - _pairs_of_words(each)) for each in every]
        scores.append(10 * math.fsum(near) / len(near))
    return math.fsum(scores) / len(scores)


def _all_grams(words: Words) -> _Grams:
    return sum((_grams(words, order) for order in range(1, _CIDER_ORDERS + 1)), _Grams())


def _pairs_of_words(counts: _Grams) -> int:
    """Return the length that is compared: as its authors' program does, in pairs of words."""
    return sum(count for gram, count in counts.items() if len(gram) == 2)


def _near(own: Sequence[dict[Any, float]], others: Sequence[dict[Any, float]], longer: int) -> float:
    """Return the mean over orders of the cosines, clipped to what the reference has, less for another length."""
    cosines = []
    for weights, expected in zip(own, others, strict=True):
        product = math.fsum(
            min(weight, expected[gram]) * expected[gram] for gram, weight in weights.items() if gram in expected
        )
        norms = math.hypot(*weights.values()) * math.hypot(*expected.values())
        cosines.append(product / norms if norms else 0.0)
    return math.exp(-(longer**2) / (2 * _SIGMA**2)) * math.fsum(cosines) / _CIDER_ORDERS
