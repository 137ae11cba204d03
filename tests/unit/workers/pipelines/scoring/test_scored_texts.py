"""Scores of texts in any alphabet: equal texts score 1, and signs that differ are a difference."""

from __future__ import annotations

import time
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from sdk.schemas.evaluation import TextMetric
from workers.pipelines.scoring.code_texts import code_parses
from workers.pipelines.scoring.texts import score_texts, words


def rouge_l(answers: list[str], references: list[str]) -> float:
    return score_texts(["rouge_l"], answers, alone(references)).metrics["rouge_l"]


def alone(references: list[str]) -> list[list[str]]:
    return [[reference] for reference in references]


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
    assert score_texts(["exact_match"], [marks], [[marks]]).metrics["exact_match"] == 1.0


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
    return score_texts([metric], [answer], [[reference]]).metrics[metric]


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
        ("json_valid", '{"a": ' + "1" * 5000 + "}", "", 1.0),
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
    found = score_texts([metric], answers, alone(references)).metrics[metric]
    assert found == pytest.approx(said(answers, [references]).score, abs=1e-6)
    assert found != pytest.approx(said(references, [answers]).score, abs=1e-3)


@given(st.lists(st.text(), min_size=1, max_size=3))
def test_whatever_is_generated_is_scored_and_a_perfect_answer_is_perfect(texts: list[str]) -> None:
    metrics = get_args(TextMetric)
    found = score_texts(metrics, texts, alone(texts), regex="[a-z]+").metrics
    for name in ("rouge_l", "rouge_1", "rouge_2", "exact_match", "contains", "token_f1"):
        assert found[name] == 1.0
    others = score_texts(metrics, texts, [["x"]] * len(texts), regex="^.$").metrics
    assert all(0 <= others[name] <= 100 + 1e-9 for name in metrics)


REFERENCES = [["the cat sat on a mat today", "a cat was sitting on the mat", "cat"], ["a dog barks loudly", "a dog!"]]
ANSWERS = ["the cat sat on the mat", "a dog"]


@pytest.mark.parametrize("metric", ["bleu", "chrf"])
def test_several_references_are_taken_as_sacrebleu_takes_them(metric: str) -> None:
    from sacrebleu.metrics import BLEU, CHRF

    found = score_texts([metric], ANSWERS, REFERENCES)
    corpus, row = (BLEU(), BLEU(effective_order=True)) if metric == "bleu" else (CHRF(), CHRF())
    ranked = [[REFERENCES[0][0], REFERENCES[1][0]], [REFERENCES[0][1], REFERENCES[1][1]], [REFERENCES[0][2], None]]
    assert found.metrics[metric] == pytest.approx(corpus.corpus_score(ANSWERS, ranked).score, abs=1e-6)
    for each, answer, references in zip(found.rows, ANSWERS, REFERENCES, strict=True):
        assert each[metric] == pytest.approx(row.sentence_score(answer, references).score, abs=1e-6)
    assert found.metrics[metric] > score_texts([metric], ANSWERS, [each[:1] for each in REFERENCES]).metrics[metric]


@pytest.mark.parametrize(("metric", "kind"), [("rouge_l", "rougeL"), ("rouge_1", "rouge1"), ("rouge_2", "rouge2")])
def test_of_several_references_the_best_counts_as_for_rouge_score(metric: str, kind: str) -> None:
    said = RougeScorer([kind]).score_multi(REFERENCES[0], ANSWERS[0])[kind].fmeasure
    assert score_texts([metric], ANSWERS[:1], REFERENCES[:1]).metrics[metric] == pytest.approx(said, abs=1e-12)


@pytest.mark.parametrize(
    ("metric", "answer", "references", "expected"),
    [
        ("exact_match", "4", ["four", "4"], 1.0),
        ("exact_match", "5", ["four", "4"], 0.0),
        ("contains", "it is 4.", ["four", "4"], 1.0),
        # 1 of 2 words and 1 of 3, or 2 of 2 and 2 of 3.
        ("token_f1", "a cat", ["the white cat", "a cat sat"], 4 / 5),
    ],
)
def test_the_best_of_several_references_by_hand(
    metric: str, answer: str, references: list[str], expected: float
) -> None:
    for order in (references, references[::-1]):
        assert score_texts([metric], [answer], [order]).metrics[metric] == pytest.approx(expected)


def test_a_regular_expression_is_looked_for_in_each_answer() -> None:
    answers = ["So it is.\nANSWER: 42", "answer 42", "", "a" * 40 + "!"]
    found = score_texts(["regex"], answers, [[""]] * 4, regex=r"(?im)^answer:\s*\d+$")
    assert [each["regex"] for each in found.rows] == [1.0, 0.0, 0.0, 0.0]
    assert found.metrics["regex"] == 0.25
    # Which would keep `re` for minutes.
    assert score_texts(["regex"], answers, [[""]] * 4, regex="^(a+)+$").metrics["regex"] == 0.0


def test_an_answer_in_which_looking_takes_too_long_has_no_score_and_the_others_do() -> None:
    ahead = "(?=" + "a*" * 200 + "c)b"
    found = score_texts(["regex"], ["b", "a" * 1000], [[""]] * 2, regex=ahead)
    assert found.failed == {"regex": [1]}
    assert found.metrics["regex"] == 0.0


def test_blanks_around_an_answer_count_in_code_alone() -> None:
    answers = ["    y = x\n    return y", " y = x\n"]
    found = score_texts(["code_parses", "regex", "exact_match"], answers, [["y = x"]] * 2, regex=r"^y = x$")
    assert found.rows == [
        {"code_parses": 1.0, "regex": 0.0, "exact_match": 0.0},
        {"code_parses": 1.0, "regex": 1.0, "exact_match": 1.0},
    ]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("x = 1", 1),
        ("return x", 1),
        ("def f(:", 0),
        ("", 0),
        (" \n", 0),
        ("# nothing but this", 1),
        ("Sure, here is the function:", 0),
        ("Sure:\n\n```python\ndef f(x):\n    return x\n```\nIt returns x.", 1),
        ("```Py title=a.py\nx = 1\n```", 1),
        ("```\nx = 1\n```", 1),
        ("```python\ndef f(:\n```", 0),
        ("```rust\nx = 1\n```", 0),
        ("~~~python\nx = 1\n~~~", 1),
        # Each block is code.
        ("```python\nx = 1\n```\nand\n```python\ny =\n```", 0),
        # One that was cut, and a fence within a longer one.
        ("```python\nx = 1\n", 1),
        ("````python\n'''\n```\n'''\n````", 1),
        ("```python\n```", 0),
        ("привет = 'мир'", 1),
        # A block in a list, and one that goes further in than its fence.
        ("1. Do\n\n   ```python\n   def f(x):\n       return x\n   ```", 1),
        ("  ```\n  x = 1\n y = 2\n  ```", 1),
        ("  ```\n  x = 1\n    y = 2\n  ```", 0),
        ("```py3\nx = 1\n```", 1),
        ("```python3.11\nx = 1\n```", 1),
        ("```{python}\nx = 1\n```", 1),
        ("```{.python .numberLines}\nx = 1\n```", 1),
        ("```pyrex\nx = 1\n```", 0),
        # The body of a function.
        ("    y = x\n    return y", 1),
        ("    y = x\n  return y", 0),
        # Python warns of it; and what is parsed is not run.
        ("'\\d'", 1),
        ("raise SystemExit", 1),
        ("x\0", 0),
        ("'\ud800'", 0),
        ("(" * 100_000, 0),
        ("-" * 100_000 + "1", 0),
        ("a" + ".b" * 90_000, 0),
        ("1" * 5000, 0),
        ("x = 1\n" * 50_000, 0),
    ],
)
def test_code_by_hand(answer: str, expected: float) -> None:
    assert code_parses(answer) == expected


@given(st.text(alphabet="`~ \npyx=1(", max_size=40))
def test_whatever_is_generated_is_scored(answer: str) -> None:
    assert code_parses(answer) in (0.0, 1.0)


def test_fences_are_found_in_a_time_that_grows_with_the_text() -> None:
    started = time.process_time()
    code_parses(("```" + "a" * 20_000 + "`\n") * 5)
    code_parses("```" + " " * 100_000 + "`")
    assert time.process_time() - started < 2
