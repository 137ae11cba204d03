"""Multiple choice by log-likelihood, as transformers computes it for one choice at a time."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.evaluated import evaluated, score

from sdk.schemas.evaluation import EvaluationReport, EvaluationSpec, RowScore
from workers.pipelines.data.rows import read_rows as read_data
from workers.pipelines.data.tokenise import tokenise
from workers.pipelines.data.tokenizer import load_tokenizer
from workers.pipelines.errors import PipelineError
from workers.pipelines.orders import RecordedScores
from workers.pipelines.scoring import language_model
from workers.pipelines.scoring.choices import likeliest
from workers.pipelines.scoring.recorded import AlreadyRecorded

ROWS: list[dict[str, Any]] = [
    {"prompt": "two and two is", "choices": [" three", " four", " a number that is larger than three"], "answer": 1},
    {"prompt": "the sky is", "choices": [" blue", " green and also square"], "answer": " blue"},
    {"prompt": "ice is", "choices": [" a", " frozen water, as all know well"], "answer": 1},
    {"prompt": "вода это", "choices": [" жидкость", " w", " камень"], "answer": 0},
    *({"prompt": f"say {n}:", "choices": [" one", " five times", " 12"], "answer": n % 3} for n in range(8)),
]


ACCURACIES = ["acc", "acc_norm", "acc_bytes"]


def run(base: Path, data: Path, out: Path, **spec: Any) -> tuple[EvaluationReport, list[RowScore]]:
    return evaluated(base, data, out, EvaluationSpec(batch_size=5, **spec))


@cache
def loaded(base: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)


def by_hand(base: Path, row: dict[str, Any]) -> list[float]:
    """The summed log-likelihood of each choice, in float64."""
    model, tokenizer = loaded(base)
    prompt = tokenizer(row["prompt"])["input_ids"]
    whole = [tokenizer(row["prompt"] + choice)["input_ids"] for choice in row["choices"]]
    assert all(ids[: len(prompt)] == prompt for ids in whole)
    longest = max(map(len, whole))
    with torch.no_grad():
        # What follows a token doesn't change what it is followed by.
        logits = (
            model(torch.tensor([ids + [0] * (longest - len(ids)) for ids in whole])).logits.double().log_softmax(-1)
        )
    return [
        sum(float(logits[number, place - 1, ids[place]]) for place in range(len(prompt), len(ids)))
        for number, ids in enumerate(whole)
    ]


def test_the_choice_with_the_greatest_likelihood_is_taken(
    llama_base: Path, write_jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    report, rows = run(llama_base, write_jsonl(ROWS), tmp_path)
    for row, one in zip(rows, ROWS, strict=True):
        found = by_hand(llama_base, one)
        answer = one["answer"] if isinstance(one["answer"], int) else one["choices"].index(one["answer"])
        likeliest = found.index(max(found))
        assert row.loss_sum == pytest.approx(-found[answer], rel=1e-5)
        assert row.prediction == one["choices"][likeliest]
        assert row.scores["acc"] == float(likeliest == answer)
    for name in ACCURACIES:
        assert report.metrics[name] == sum(row.scores[name] for row in rows) / len(rows)
    assert report.metrics["loss"] == pytest.approx(
        math.fsum(row.loss_sum or 0 for row in rows) / sum(row.tokens for row in rows)
    )
    assert report.metrics["generated_rows"] == 0
    assert (report.conditions.loss_on, report.conditions.metrics) == ("completion", {"choices": "2"})


#: Words with one to four bytes a character, as lm-eval has them: without the delimiter.
SCRIPTS = [
    "blue",
    "green and square",
    "жидкость",
    "камень",
    "水",
    "凍った水です",
    "νερό",
    "ماء بارد",
    "🧊🧊",
    "ß",
    "नीला",
    "",
]


def mixed_questions(count: int, seed: int) -> list[dict[str, Any]]:
    """Questions whose choices are in mixed scripts, and one in four of which joins them without a blank."""
    draw = random.Random(seed)
    found = []
    for number in range(count):
        delimiter = draw.choice([" ", " ", " ", "\n"])
        words = draw.sample(SCRIPTS[:-1], 3)
        choices = [words[0], f"{words[1]} {words[2]}", " " + words[2], words[1] + words[0]]
        draw.shuffle(choices)
        joined = [delimiter + choice for choice in choices]
        found.append({"prompt": f"{number} {draw.choice(SCRIPTS)}:", "choices": joined, "answer": draw.randrange(4)})
    return found


def lm_eval_s(base: Path, row: dict[str, Any]) -> dict[str, float]:
    """What lm-evaluation-harness makes of a question: `np.argmax` of the log-likelihoods, of those over the numbers of
    characters, and over the numbers of bytes, of choices without their delimiter, a blank.
    """
    totals = np.array(by_hand(base, row))
    choices = [choice[1:] if choice[0] == " " else choice for choice in row["choices"]]
    characters = np.array([float(len(choice)) for choice in choices])
    byte_count = np.array([float(len(choice.encode("utf-8"))) for choice in choices])
    taken = (np.argmax(totals), np.argmax(totals / characters), np.argmax(totals / byte_count))
    return dict(zip(ACCURACIES, (float(place == row["answer"]) for place in taken), strict=True))


def test_accuracies_are_those_of_lm_eval_in_any_script(
    llama_base: Path, write_jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    questions = mixed_questions(200, seed=4)
    report, rows = run(llama_base, write_jsonl(questions), tmp_path)
    theirs = [lm_eval_s(llama_base, one) for one in questions]
    assert [row.scores for row in rows] == theirs
    assert {name: report.metrics[name] for name in ACCURACIES} == {
        name: pytest.approx(sum(one[name] for one in theirs) / 200) for name in ACCURACIES
    }
    # No two of them are the same question.
    for name, other in combinations(ACCURACIES, 2):
        assert any(one[name] != one[other] for one in theirs)


@pytest.mark.parametrize(
    ("nats", "lengths"),
    [([3.0, 3.0, 3.0], [1, 1, 1]), ([6.0, 4.0, 2.0], [6, 2, 2]), ([2.0, 4.0, 1.0], [2, 4, 1]), ([1.0, 2.0], [0, 9])],
)
def test_of_equal_choices_the_first_is_taken_as_by_numpy(nats: list[float], lengths: list[int]) -> None:
    with np.errstate(divide="ignore"):
        assert likeliest(nats, lengths) == np.argmax(-np.array(nats) / np.array(lengths))


def test_scores_that_kept_no_text_are_taken_where_none_is_asked_for(
    llama_base: Path, write_jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    """Else rows would lack for ever what was taken, once they were scored with --keep-samples 0."""
    data = write_jsonl(ROWS)
    report, _ = run(llama_base, data, tmp_path, keep_samples=0)
    assert report.conditions is not None
    of = {"conditions": report.conditions, "libraries": report.libraries, "metrics": sorted(report.metrics)}
    silent = RecordedScores(id="silent", samples=0, texts=False, **of)

    def again(kept: int, *found: RecordedScores) -> EvaluationReport:
        return score(llama_base, data, spec=EvaluationSpec(batch_size=5, keep_samples=kept), recorded=[*found])

    with pytest.raises(AlreadyRecorded, match="silent"):
        again(0, silent)
    assert again(4, silent).metrics["acc"] == report.metrics["acc"]
    with pytest.raises(AlreadyRecorded, match="told"):
        again(4, silent, RecordedScores(id="told", samples=0, **of))


def test_right_answers_elsewhere_are_another_score(
    llama_base: Path, write_jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    _, rows = run(llama_base, write_jsonl(ROWS), tmp_path)
    perfect = [{**one, "answer": row.prediction} for row, one in zip(rows, ROWS, strict=True)]
    assert run(llama_base, write_jsonl(perfect), tmp_path)[0].metrics["acc"] == 1.0


def test_a_long_prompt_loses_its_beginning_and_a_long_choice_is_refused(
    llama_base: Path, write_jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    long = [{"prompt": "x y z " * 400 + "the sky is", "choices": [" blue", " red"], "answer": 0}]
    _, rows = run(llama_base, write_jsonl(long), tmp_path, max_length=32)
    assert rows[0].tokens > 0
    assert rows[0].loss_sum is not None
    with pytest.raises(PipelineError, match=r"line 1 has a choice of \d+ tokens, where 1 to 7 fit"):
        run(llama_base, write_jsonl([{**long[0], "choices": [" blue", " red" * 40]}]), tmp_path, max_length=8)
    with pytest.raises(PipelineError, match="choices rows have nothing for a loss on 'all'"):
        run(llama_base, write_jsonl(ROWS), tmp_path, loss_on="all")


def test_a_choice_whose_likelihood_is_no_number_loses_its_row_alone(
    llama_base: Path, write_jsonl: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = language_model.example_token_losses

    def some_nan(*given: Any) -> Any:
        for part in real(*given):
            yield [
                (e, [math.nan] if (e.row, e.reference) == (1, " green and also square") else nats) for e, nats in part
            ]

    monkeypatch.setattr(language_model, "example_token_losses", some_nan)
    report, rows = run(llama_base, write_jsonl(ROWS), tmp_path)
    assert rows[1].scores == {}
    assert rows[1].loss_sum is not None
    assert report.metrics["acc_rows"] == len(ROWS) - 1
    assert set(report.conditions.failed) == set(ACCURACIES)


def test_nothing_is_learnt_of_them(llama_base: Path, write_jsonl: Callable[..., Path]) -> None:
    with pytest.raises(PipelineError, match="are for evaluations"):
        tokenise(read_data(write_jsonl(ROWS)), load_tokenizer(llama_base), loss_on=None, max_length=64)


METRICS: list[Any] = ["exact_match", "contains", "rouge_l", "bleu"]


def answered(base: Path, data: Path, out: Path, **spec: Any) -> tuple[EvaluationReport, list[RowScore]]:
    return evaluated(base, data, out, EvaluationSpec(batch_size=4, max_new_tokens=4, **spec))


@pytest.mark.parametrize("chat", [False, True])
def test_an_answer_is_right_by_any_reference_and_the_loss_is_that_of_the_first(
    llama_base: Path, write_jsonl: Callable[..., Path], tmp_path: Path, chat: bool
) -> None:
    def asked(text: str) -> Any:
        return [{"role": "user", "content": text}] if chat else text

    def answer(text: str) -> Any:
        return [{"role": "assistant", "content": text}] if chat else text

    prompts = [f"say {number}: " for number in range(5)]
    pairs = [{"prompt": asked(prompt), "completion": answer("four")} for prompt in prompts]
    report, alone = answered(llama_base, write_jsonl(pairs), tmp_path, metrics=METRICS)
    said = [row.prediction or "x" for row in alone]
    several = [
        {"prompt": asked(prompt), "references": ["four", f"not {text}", text]}
        for prompt, text in zip(prompts, said, strict=True)
    ]
    scored, rows = answered(llama_base, write_jsonl(several), tmp_path, metrics=METRICS)
    assert [(row.loss_sum, row.tokens, row.prediction) for row in rows] == [
        (row.loss_sum, row.tokens, row.prediction) for row in alone
    ]
    assert report.metrics["exact_match"] == 0.0
    assert {name: scored.metrics[name] for name in METRICS} == pytest.approx(
        {"exact_match": 1.0, "contains": 1.0, "rouge_l": 1.0, "bleu": scored.metrics["bleu"]}
    )
    assert scored.conditions == report.conditions


def test_nothing_is_learnt_of_references(llama_base: Path, write_jsonl: Callable[..., Path]) -> None:
    rows = read_data(write_jsonl([{"prompt": "a", "references": ["b"]}]))
    with pytest.raises(PipelineError, match=r"\{prompt, references\} are for evaluations"):
        tokenise(rows, load_tokenizer(llama_base), loss_on=None, max_length=64)


def test_scores_of_completions_that_nobody_generates_are_refused(
    llama_base: Path, write_jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    data = write_jsonl([{"text": "two and two is four"}])
    with pytest.raises(PipelineError, match="exact_match, regex are scores of completions, and of these rows none"):
        answered(llama_base, data, tmp_path, metrics=["exact_match"], regex="x")
    assert "rouge_l" not in answered(llama_base, data, tmp_path)[0].metrics
