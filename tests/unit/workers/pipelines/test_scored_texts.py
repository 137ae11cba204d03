"""Scores of texts in any alphabet: equal texts score 1, and signs that differ are a difference."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from sdk.schemas.evaluation import TextMetric
from workers.pipelines.scoring.texts import score_texts
from workers.pipelines.scoring.words import words


def rouge_l(answers: list[str], references: list[str]) -> float:
    return score_texts(["rouge_l"], answers, references).metrics["rouge_l"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The cat, the mat.", ["the", "cat", ",", "the", "mat", "."]),
        ("return x_1 + {}", ["return", "x", "_", "1", "+", "{", "}"]),
        ("Привет, мир", ["привет", ",", "мир"]),
        ("Γεια σου Κόσμε", ["γεια", "σου", "κόσμε"]),
        ("東京タワー", ["東", "京", "タ", "ワ", "ー"]),
        ("สวัสดี", ["ส", "วั", "ส", "ดี"]),
        ("नमस्ते दुनिया", ["नमस्ते", "दुनिया"]),
        ("안녕 세상", ["안녕", "세상"]),
        ("مرحبا", ["مرحبا"]),
        ("STRASSE straße", ["strasse", "strasse"]),
        # A letter and its accent as one character or as two.
        ("é e\u0301", ["é", "é"]),
        ("3.14", ["3", ".", "14"]),
        (" \t\n\u3000", []),
        # What is not seen is no word, and no mark on the word before a blank.
        ("\u200bhello a \u200bb", ["hello", "a", "b"]),
        ("a \u0301b", ["a", "\u0301b"]),
        ("می\u200cخواهم", ["می\u200cخواهم"]),
        ("", []),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_a_word_may_be_long() -> None:
    assert words("x" * 1_000_000) == ["x" * 1_000_000]
    # In time that grows with the marks and not with their square, which would be minutes.
    marks = "x" + "\u0301" * 200_000 + "\u0316" * 200_000
    assert len(words(marks)) == 1
    assert score_texts(["exact_match"], [marks], [marks]).metrics["exact_match"] == 1.0


@given(st.text())
def test_equal_texts_score_1_and_nothing_crashes(text: str) -> None:
    assert rouge_l([text], [text]) == 1.0


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ("Привет мир", "Привет мир", 1.0),
        ("Привет", "Привет мир", 2 / 3),
        # 4 of 5 letters are in order: P = R = 0.8.
        ("東京大学生", "東京大学院", 0.8),
        # `return` and no sign: P = R = 1/3.
        ("return {}", "return []", 1 / 3),
        ("", "a", 0.0),
        ("a", "", 0.0),
        ("", " ", 1.0),
    ],
)
def test_by_hand(answer: str, reference: str, expected: float) -> None:
    assert rouge_l([answer], [reference]) == pytest.approx(expected)


@given(
    st.lists(st.sampled_from(["the", "cat", "sat", "on", "a", "mat", "12"])),
    st.lists(st.sampled_from(["the", "cat", "sat", "on"])),
)
def test_plain_latin_words_score_as_by_the_reference_implementation(answer: list[str], reference: list[str]) -> None:
    if answer or reference:
        said = RougeScorer(["rougeL"]).score(" ".join(reference), " ".join(answer))["rougeL"].fmeasure
        assert rouge_l([" ".join(answer)], [" ".join(reference)]) == pytest.approx(said, abs=1e-12)


def one(metric: str, answer: str, reference: str) -> float:
    return score_texts([metric], [answer], [reference]).metrics[metric]


@pytest.mark.parametrize(
    ("metric", "answer", "reference", "expected"),
    [
        ("exact_match", " four\n", "four", 1.0),
        ("exact_match", "Four", "four", 0.0),
        ("exact_match", "e\u0301", "é", 1.0),
        ("exact_match", "", "", 1.0),
        ("contains", "it is four.", "four", 1.0),
        ("contains", "four", "it is four", 0.0),
        # 2 of 3 words and 2 of 4.
        ("token_f1", "the cat sat", "a cat the mat", 4 / 7),
        # Counted as often as both have it: 1 of 2 and 1 of 1.
        ("token_f1", "no no", "no", 2 / 3),
        ("token_f1", "да да нет", "да нет", 4 / 5),
        ("token_f1", "", "x", 0.0),
        ("token_f1", "", "", 1.0),
        ("json_valid", '{"a": [1, null]}', "anything", 1.0),
        ("json_valid", "{'a': 1}", "", 0.0),
        ("json_valid", "NaN", "", 0.0),
        ("json_valid", "[" * 100_000, "", 0.0),
        ("json_valid", "", "", 0.0),
        # 2 of 3 words and 2 of 2; one pair of words of two, and of one.
        ("rouge_1", "the cat sat", "the cat", 4 / 5),
        ("rouge_2", "the cat sat", "the cat", 2 / 3),
        ("rouge_2", "cat", "cat", 1.0),
        ("rouge_2", "猫", "猫", 1.0),
    ],
)
def test_each_metric_by_hand(metric: str, answer: str, reference: str, expected: float) -> None:
    assert one(metric, answer, reference) == pytest.approx(expected)


@pytest.mark.parametrize("metric", ["bleu", "chrf"])
def test_what_sacrebleu_scores_is_the_corpus_with_the_answers_as_hypotheses(metric: str) -> None:
    import sacrebleu

    answers, references = ["the cat sat on the mat", "a dog"], ["the cat sat on a mat today", "a dog barks loudly"]
    said = {"bleu": sacrebleu.corpus_bleu, "chrf": sacrebleu.corpus_chrf}[metric]
    found = score_texts([metric], answers, references).metrics[metric]
    assert found == pytest.approx(said(answers, [references]).score, abs=1e-6)
    assert found != pytest.approx(said(references, [answers]).score, abs=1e-3)


@given(st.lists(st.text(), min_size=1, max_size=3))
def test_whatever_is_generated_is_scored_and_a_perfect_answer_is_perfect(texts: list[str]) -> None:
    metrics = get_args(TextMetric)
    found = score_texts(metrics, texts, texts).metrics
    for name in ("rouge_l", "rouge_1", "rouge_2", "exact_match", "contains", "token_f1"):
        assert found[name] == 1.0
    assert all(0 <= score_texts(metrics, texts, ["x"] * len(texts)).metrics[name] <= 100 + 1e-9 for name in metrics)
