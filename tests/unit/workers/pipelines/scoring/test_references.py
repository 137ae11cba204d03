"""Rows with several right answers: scored against each, with the loss of the first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.evaluated import evaluated

from sdk.schemas.evaluation import EvaluationReport, EvaluationSpec, RowScore
from workers.pipelines.errors import PipelineError

METRICS: list[Any] = ["exact_match", "contains", "rouge_l", "bleu"]


def run(base: Path, data: Path, out: Path, **spec: Any) -> tuple[EvaluationReport, list[RowScore]]:
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
    report, alone = run(llama_base, write_jsonl(pairs), tmp_path, metrics=METRICS)
    said = [row.prediction or "x" for row in alone]
    several = [
        {"prompt": asked(prompt), "references": ["four", f"not {text}", text]}
        for prompt, text in zip(prompts, said, strict=True)
    ]
    scored, rows = run(llama_base, write_jsonl(several), tmp_path, metrics=METRICS)
    assert [(row.loss_sum, row.tokens, row.prediction) for row in rows] == [
        (row.loss_sum, row.tokens, row.prediction) for row in alone
    ]
    assert report.metrics["exact_match"] == 0.0
    assert {name: scored.metrics[name] for name in METRICS} == pytest.approx(
        {"exact_match": 1.0, "contains": 1.0, "rouge_l": 1.0, "bleu": scored.metrics["bleu"]}
    )
    assert scored.conditions == report.conditions


def test_nothing_is_learnt_of_them(llama_base: Path, write_jsonl: Callable[..., Path]) -> None:
    from workers.pipelines.data.rows import read_rows as read_data
    from workers.pipelines.data.tokenise import tokenise
    from workers.pipelines.data.tokenizer import load_tokenizer

    rows = read_data(write_jsonl([{"prompt": "a", "references": ["b"]}]))
    with pytest.raises(PipelineError, match=r"\{prompt, references\} are for evaluations"):
        tokenise(rows, load_tokenizer(llama_base), loss_on=None, max_length=64)


def test_scores_of_completions_that_nobody_generates_are_refused(
    llama_base: Path, write_jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    data = write_jsonl([{"text": "two and two is four"}])
    with pytest.raises(PipelineError, match="exact_match, regex are scores of completions, and of these rows none"):
        run(llama_base, data, tmp_path, metrics=["exact_match"], regex="x")
    assert "rouge_l" not in run(llama_base, data, tmp_path)[0].metrics
