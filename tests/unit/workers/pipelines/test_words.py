"""ROUGE-L in any alphabet: equal texts score 1, and signs that differ are a difference."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from workers.pipelines.scoring.evaluate import rouge_l
from workers.pipelines.scoring.words import words


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
        ("", []),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@given(st.text())
def test_equal_texts_score_1_and_nothing_crashes(text: str) -> None:
    assert rouge_l([text], [text]) == [1.0]


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
    assert rouge_l([answer], [reference]) == [pytest.approx(expected)]


@given(
    st.lists(st.sampled_from(["the", "cat", "sat", "on", "a", "mat", "12"])),
    st.lists(st.sampled_from(["the", "cat", "sat", "on"])),
)
def test_plain_latin_words_score_as_by_the_reference_implementation(answer: list[str], reference: list[str]) -> None:
    if answer or reference:
        said = RougeScorer(["rougeL"]).score(" ".join(reference), " ".join(answer))["rougeL"].fmeasure
        assert rouge_l([" ".join(answer)], [" ".join(reference)]) == [pytest.approx(said, abs=1e-12)]
