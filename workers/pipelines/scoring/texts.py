"""Scores of generated texts against what was expected."""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from typing import get_args

from sdk.schemas.evaluation import TextMetric
from workers.pipelines.scoring.words import words

#: What defines the scores beside `words`.
SCORING_LIBRARIES = ("rouge-score", "sacrebleu")
#: Each answer with its reference.
_Pairs = Sequence[tuple[str, str]]


def score_texts(metrics: Sequence[TextMetric], answers: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Return each metric over all answers: from 0 to 1 the mean over the rows, `bleu` and `chrf` from 0 to 100 over the corpus."""
    pairs = list(zip(answers, references, strict=True))
    return {name: _SCORES[name](pairs) for name in metrics} if pairs else {}


def _mean(score: Callable[[str, str], float]) -> Callable[[_Pairs], float]:
    return lambda pairs: sum(score(answer, reference) for answer, reference in pairs) / len(pairs)


def _plain(text: str) -> str:
    return unicodedata.normalize("NFC", text).strip()


def exact_match(answer: str, reference: str) -> float:
    """Return 1 for the same text, composed (NFC) and without blanks around it, else 0."""
    return float(_plain(answer) == _plain(reference))


def contains(answer: str, reference: str) -> float:
    """Return 1 for an answer that the whole reference is a part of, else 0."""
    return float(_plain(reference) in _plain(answer))


def json_valid(answer: str, _reference: str = "") -> float:
    """Return 1 for an answer that is one JSON value, by RFC 8259, else 0."""
    try:
        json.loads(answer, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return 0.0
    return 1.0


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def token_f1(answer: str, reference: str) -> float:
    """Return the F1 over the words that both have, counted as often as both have them (Rajpurkar et al. 2016)."""
    said, expected = Counter(words(answer)), Counter(words(reference))
    if not said and not expected:
        return 1.0
    common = (said & expected).total()
    return 2 * common / (said.total() + expected.total())


def _rouge(kind: str) -> Callable[[_Pairs], float]:
    def score(pairs: _Pairs) -> float:
        from rouge_score.rouge_scorer import RougeScorer

        scorer = RougeScorer([kind], tokenizer=_Words())

        def one(answer: str, reference: str) -> float:
            said, expected = words(answer), words(reference)
            # A single word has no pair of words: equal texts are right all the same.
            return 1.0 if said == expected else float(scorer.score(reference, answer)[kind].fmeasure)

        return _mean(one)(pairs)

    return score


class _Words:
    """`words`, as the library takes it."""

    def tokenize(self, text: str) -> list[str]:
        """Return the words of a text."""
        return words(text)


def _bleu(pairs: _Pairs) -> float:
    from sacrebleu.metrics import BLEU

    return float(BLEU().corpus_score([answer for answer, _ in pairs], [[reference for _, reference in pairs]]).score)


def _chrf(pairs: _Pairs) -> float:
    from sacrebleu.metrics import CHRF

    return float(CHRF().corpus_score([answer for answer, _ in pairs], [[reference for _, reference in pairs]]).score)


_SCORES: dict[TextMetric, Callable[[_Pairs], float]] = {
    # Lin 2004.
    "rouge_l": _rouge("rougeL"),
    "rouge_1": _rouge("rouge1"),
    "rouge_2": _rouge("rouge2"),
    "exact_match": _mean(exact_match),
    "contains": _mean(contains),
    "token_f1": _mean(token_f1),
    "json_valid": _mean(json_valid),
    # Papineni et al. 2002 and Popović 2015, as by sacrebleu (Post 2018).
    "bleu": _bleu,
    "chrf": _chrf,
}
assert set(_SCORES) == set(get_args(TextMetric))
