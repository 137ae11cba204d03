"""NIST and METEOR against nltk's, and CIDEr-D against what pycocoevalcap computes of the same words.

PYTHONPATH=. python tests/unit/workers/pipelines/scoring/test_word_scores.py prints `CIDER`, where pycocoevalcap 1.2 is installed too.
"""

from __future__ import annotations

import random

import pytest
from nltk.translate.meteor_score import meteor_score
from nltk.translate.nist_score import corpus_nist

from workers.pipelines.scoring.texts import score_texts, words
from workers.pipelines.scoring.word_scores import cider_d, meteor, nist

#: By the seed of a corpus.
CIDER = {
    0: 1.6278305403003905,
    1: 1.8273274535029014,
    2: 1.7241607725814891,
    3: 2.6373416297156287,
    4: 2.864455280766775,
    5: 1.660366309688889,
}
WORDS = [
    "the",
    "a",
    "cats",
    "cat",
    "sat",
    "sitting",
    "runs",
    "running",
    "ran",
    "mat",
    "on",
    "red",
    "happily",
    "happiness",
]


class NoWordNet:
    """A WordNet in which no word has a synonym."""

    def synsets(self, word: str) -> list[object]:
        return []


def corpus_of(seed: int, *, least: int = 0, most: int = 12) -> tuple[list[list[str]], list[list[list[str]]]]:
    """Answers, some of them without a word, and up to four references of each."""
    drawn = random.Random(seed)

    def text() -> list[str]:
        return [drawn.choice(WORDS) for _ in range(drawn.randint(least, most))]

    references = [[text() for _ in range(drawn.randint(1, 4))] for _ in range(2 + seed)]
    return [text() if drawn.random() < 0.5 else list(drawn.choice(every)) for every in references], references


@pytest.mark.parametrize("seed", range(20))
def test_nist_is_nltk_s_where_there_are_runs_of_five_words(seed: int) -> None:
    answers, references = corpus_of(seed)
    answers[0] = WORDS[:6]
    assert nist(answers, references) == pytest.approx(corpus_nist(references, answers, 5), rel=1e-12)


def test_nist_is_over_the_orders_that_exist() -> None:
    answers, references = [["the", "cat"], ["cat"]], [[["the", "cat", "sat"]], [["cat"], ["the"]]]
    with pytest.raises(ZeroDivisionError):
        corpus_nist(references, answers, 5)
    assert nist(answers, references) == pytest.approx(corpus_nist(references, answers, 2), rel=1e-12)
    assert nist([[]], [[["cat"]]]) == nist([["cat"]], [[[]]]) == nist([[]], [[[]]]) == 0.0


@pytest.mark.parametrize("seed", range(20))
def test_meteor_is_nltk_s_without_synonyms(seed: int) -> None:
    for answer, references in zip(*corpus_of(seed), strict=True):
        expected = meteor_score(references, answer, preprocess=str, wordnet=NoWordNet())
        assert meteor(answer, references) == pytest.approx(expected, rel=1e-12), (answer, references)


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ("the cat sat", "the cat sat", 1 - 0.5 / 27),
        # One match of two words and one: precision 1/2, recall 1.
        ("sat down", "sat", 0.5 / 0.55 * (1 - 0.5)),
        # Stems, in two pieces: the order differs.
        ("running cats", "cat runs", 1 - 0.5),
        ("кошка спит", "Кошка спит", 1 - 0.5 / 8),
        ("猫", "犬", 0.0),
        ("", "", 0.0),
    ],
)
def test_meteor_by_hand(answer: str, reference: str, expected: float) -> None:
    found = score_texts(["meteor_exact_stem"], [answer], [[reference]])
    assert found.metrics["meteor_exact_stem"] == found.rows[0]["meteor_exact_stem"] == pytest.approx(expected)


@pytest.mark.parametrize("seed", CIDER)
def test_cider_d_is_pycocoevalcap_s_of_the_same_words(seed: int) -> None:
    assert cider_d(*corpus_of(seed)) == pytest.approx(CIDER[seed], rel=1e-9)


def test_cider_d_is_of_the_corpus_and_no_row_has_one() -> None:
    answers, references = ["The cat sat on the mat.", "a dog"], [["the cat sat on a mat"], ["a dog barks", "dogs"]]
    found = score_texts(["cider_d", "nist", "rouge_l"], answers, references)
    tokens = [words(answer) for answer in answers], [[words(each) for each in every] for every in references]
    assert found.metrics["cider_d"] == cider_d(*tokens) > 0
    assert found.metrics["nist"] == nist(*tokens) > 0
    assert [set(row) for row in found.rows] == [{"nist", "rouge_l"}] * 2
    assert found.failed == {}
    # Of a single row nothing is rare.
    assert cider_d([["cat"]], [[["cat"]]]) == 0.0


if __name__ == "__main__":
    from pycocoevalcap.cider.cider import Cider

    for number in CIDER:
        given, expected = corpus_of(number)
        texts = {row: [" ".join(each) for each in every] for row, every in enumerate(expected)}
        print(number, float(Cider().compute_score(texts, {row: [" ".join(each)] for row, each in enumerate(given)})[0]))
