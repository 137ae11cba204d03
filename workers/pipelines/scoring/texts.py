"""Scores of generated texts, compared with the expected ones; a row may have several of these."""

from __future__ import annotations

import itertools
import json
import math
import traceback
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any, get_args

from sdk.formats.expressions import Automaton, Budget
from sdk.rows.texts import stream_safe
from sdk.schemas.evaluation import CORPUS_METRICS, TextMetric
from workers.pipelines.scoring.code_texts import code_parses
from workers.pipelines.scoring.word_scores import Synonyms, Words, cider_d, meteor, nist

#: Increased with every change of what a word is; it is recorded with the scores.
WORDS_VERSION = 2
#: Prefixes of the names of letters in scripts without spaces between words.
_UNSPACED = ("CJK ", "HIRAGANA ", "KATAKANA ", "HALFWIDTH KATAKANA ", "THAI ", "LAO ", "KHMER ", "MYANMAR ", "TIBETAN ")
#: Whether a character continues the word before it, is part of one in a script with spaces, is a word of its own, ends
#: one, or is invisible.
_MARK, _LETTER, _ALONE, _SPACE, _NOTHING = range(5)
#: Characters that join or separate letters within a word.
_JOINERS = "\u200c\u200d"


def words(text: str) -> list[str]:
    """Return the words of a text, in lower case and composed (NFC, and Unicode's folding of case).

    Consecutive letters and digits are a word. In scripts without spaces, such as Chinese, Japanese or Thai, each letter
    is a word, with its marks; so is each sign: `[]` and `{}` have no word in common.

    >>> words("Return x_1 + {};")
    ['return', 'x', '_', '1', '+', '{', '}', ';']
    >>> words("Привет, 東京")
    ['привет', ',', '東', '京']
    """
    found: list[list[str]] = []
    # Whether the last word is still open, and whether a letter would continue it.
    open_, goes_on = False, False
    for character in unicodedata.normalize("NFC", stream_safe(text)).casefold():
        kind = _kind(character)
        if kind == _NOTHING:
            continue
        if open_ and (kind == _MARK or (kind == _LETTER and goes_on)):
            found[-1].append(character)
            continue
        open_ = kind != _SPACE
        if open_:
            found.append([character])
        goes_on = kind in (_LETTER, _MARK)
    return ["".join(word) for word in found]


@lru_cache(maxsize=65536)
def _kind(character: str) -> int:
    category = unicodedata.category(character)
    if category[0] == "M" or character in _JOINERS:
        return _MARK
    if category == "Cf":
        return _NOTHING
    if category[0] in "LN":
        return _ALONE if unicodedata.name(character, "").startswith(_UNSPACED) else _LETTER
    return _SPACE if category[0] in "ZC" else _ALONE


#: What defines the scores, besides `words`.
SCORING_LIBRARIES = ("rouge-score", "sacrebleu")
#: The steps allowed for searching for an expression, per letter and at least: generating a text takes longer.
_STEPS_A_LETTER, _STEPS = 1_000, 1_000_000
#: Each answer with its references.
_Pairs = Sequence[tuple[str, Sequence[str]]]


@dataclass(frozen=True)
class Metric:
    """A score of answers, compared with references."""

    #: The score of a single answer; None: none has one.
    row: Callable[[str, Sequence[str]], float] | None
    #: The score of all answers together; None: the mean over the rows.
    corpus: Callable[[_Pairs], float] | None = None
    #: Whether blanks around an answer count; else it is stripped.
    as_written: bool = False


@dataclass(frozen=True)
class TextScores:
    """The scores of answers."""

    #: Each metric over all answers that it could score; without metrics that could score none.
    metrics: dict[str, float]
    #: Each metric for each answer, without answers that it could not score.
    rows: list[dict[str, float]]
    #: Metric → the places of the answers that it could not score.
    failed: dict[str, list[int]]
    #: A user's own scorer → the first error that it raised, in one line.
    errors: dict[str, str] = field(default_factory=dict)


def score_texts(
    metrics: Sequence[TextMetric],
    answers: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    regex: str | None = None,
    synonyms: Synonyms | None = None,
) -> TextScores:
    """Score answers, each by comparison with its references: from 0 to 1 as the mean over the rows, and `bleu` and
    `chrf` from 0 to 100 over the corpus. Of several references, the one with which the answer scores best counts; BLEU
    and chrF use them as in sacrebleu. Answers are given as generated, and are scored stripped, unless blanks matter, as
    at the beginning of code. `regex` is the expression of the metric of that name, and `synonyms` are those of `meteor`.

    If a metric raises, or its score is not a number, only that row lacks it.
    """
    stripped = list(zip(map(str.strip, answers), references, strict=True))
    scores = TextScores({}, [{} for _ in answers], {})
    for name in metrics:
        metric = _looking_for(regex or "") if name == "regex" else _SCORES.get(name) or _meteor(synonyms)
        pairs = list(zip(answers, references, strict=True)) if metric.as_written else stripped
        scored = []
        for place, (answer, expected) in enumerate(pairs):
            if metric.row is None:
                scored.append(place)
                continue
            if (score := _score(metric.row, answer, expected)) is None:
                scores.failed.setdefault(name, []).append(place)
                continue
            scores.rows[place][name] = score
            scored.append(place)
        if scored and metric.corpus is not None:
            scores.metrics[name] = metric.corpus([pairs[place] for place in scored])
        elif scored:
            scores.metrics[name] = math.fsum(scores.rows[place][name] for place in scored) / len(scored)
    return scores


def _score(row: Callable[[str, Sequence[str]], float], answer: str, references: Sequence[str]) -> float | None:
    try:
        score = float(row(answer, references))
    except Exception:  # noqa: BLE001  # whatever a metric stumbles over, the other rows have their scores
        # It goes to the job's log.
        traceback.print_exc()
        return None
    return score if math.isfinite(score) else None


def _plain(text: str) -> str:
    return unicodedata.normalize("NFC", stream_safe(text)).strip()


def exact_match(answer: str, reference: str) -> float:
    """Return 1 for the same text, composed (NFC) and without blanks around it, else 0."""
    return float(_plain(answer) == _plain(reference))


def contains(answer: str, reference: str) -> float:
    """Return 1 for an answer that the whole reference is a part of, else 0."""
    return float(_plain(reference) in _plain(answer))


def json_valid(answer: str) -> float:
    """Return 1 for an answer that is one JSON value, by RFC 8259, else 0."""
    try:
        # Python limits the digits of an int, but JSON does not.
        json.loads(answer, parse_constant=_refuse, parse_int=str)
    except (ValueError, RecursionError):
        return 0.0
    return 1.0


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def token_f1(answer: str, reference: str) -> float:
    """Return the F1 over the words that both have, counted as often as both have them (Rajpurkar et al. 2016)."""
    answered, expected = Counter(words(answer)), Counter(words(reference))
    if not answered and not expected:
        return 1.0
    common = (answered & expected).total()
    return 2 * common / (answered.total() + expected.total())


def _best(of_one: Callable[[str, str], float]) -> Metric:
    """A score for one reference; with several, the greatest counts."""
    return Metric(lambda answer, references: max(of_one(answer, reference) for reference in references))


def _alone(of_answer: Callable[[str], float]) -> Metric:
    """A score that doesn't use references."""
    return Metric(lambda answer, _references: of_answer(answer))


def _looking_for(expression: str) -> Metric:
    """1 for an answer in which the expression is found, else 0; no score if the search takes too many steps."""
    automaton = Automaton([expression], within=True)

    def found_in(answer: str) -> float:
        return float(automaton.first(answer, Budget(_STEPS + _STEPS_A_LETTER * len(answer))) is not None)

    return _alone(found_in)


def _rouge(kind: str) -> Metric:
    def of_one(answer: str, reference: str) -> float:
        answered, expected = words(answer), words(reference)
        # A single word has no pair of words; equal texts are right anyway.
        return 1.0 if answered == expected else float(_rouge_scorer(kind).score(reference, answer)[kind].fmeasure)

    # As in the package's `score_multi`.
    return _best(of_one)


@cache
def _rouge_scorer(kind: str) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer([kind], tokenizer=_Words())


class _Words:
    """`words` in the form that the library takes."""

    def tokenize(self, text: str) -> list[str]:
        """Return the words of a text."""
        return words(text)


@cache
def _sacrebleu(name: str, **options: bool) -> Any:
    from sacrebleu import metrics

    return getattr(metrics, name)(**options)


def _of_sacrebleu(name: str, **of_a_row: bool) -> Metric:
    """A metric with its defaults over the corpus, and with settings for single sentences for one answer."""

    def row(answer: str, references: Sequence[str]) -> float:
        return float(_sacrebleu(name, **of_a_row).sentence_score(answer, list(references)).score)

    def corpus(pairs: _Pairs) -> float:
        # The first reference of each answer, the second of each that has one, and so on.
        ranked = [list(each) for each in itertools.zip_longest(*(references for _, references in pairs))]
        return float(_sacrebleu(name).corpus_score([answer for answer, _ in pairs], ranked).score)

    return Metric(row, corpus)


def _of_words(corpus: Callable[[Sequence[Words], Sequence[Sequence[Words]]], float], *, by_row: bool) -> Metric:
    """A score of the words of all answers; `by_row`: one answer has the score that it would have alone."""

    def of_pairs(pairs: _Pairs) -> float:
        return corpus([words(answer) for answer, _ in pairs], [list(map(words, references)) for _, references in pairs])

    return Metric((lambda answer, references: of_pairs([(answer, references)])) if by_row else None, of_pairs)


def _meteor(synonyms: Synonyms | None) -> Metric:
    return Metric(lambda answer, references: meteor(words(answer), list(map(words, references)), synonyms))


_SCORES: dict[TextMetric, Metric] = {
    # Lin 2004.
    "rouge_l": _rouge("rougeL"),
    "rouge_1": _rouge("rouge1"),
    "rouge_2": _rouge("rouge2"),
    "exact_match": _best(exact_match),
    "contains": _best(contains),
    "token_f1": _best(token_f1),
    "json_valid": _alone(json_valid),
    "code_parses": Metric(lambda answer, _: code_parses(answer), as_written=True),
    # Papineni et al. 2002 and Popović 2015, as by sacrebleu (Post 2018). A short answer has no 4-grams, so a row's BLEU
    # is over those that it has.
    "bleu": _of_sacrebleu("BLEU", effective_order=True),
    "chrf": _of_sacrebleu("CHRF"),
    "nist": _of_words(nist, by_row=True),
    "meteor_exact_stem": _meteor(None),
    "cider_d": _of_words(cider_d, by_row=False),
}
assert {*_SCORES, "regex", "meteor"} == set(get_args(TextMetric))
assert {name for name, metric in _SCORES.items() if metric.corpus} <= CORPUS_METRICS
