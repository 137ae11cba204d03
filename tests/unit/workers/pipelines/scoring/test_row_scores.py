"""What each row scores: as another program computes it, and a row or metric that fails loses only itself."""

from __future__ import annotations

import gzip
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.evaluated import evaluated, plain_loss, score
from support.fixtures import Limits

from sdk.formats.cut_texts import CUT
from sdk.schemas.evaluation import EvaluationReport, EvaluationSpec, RowScore
from sdk.schemas.row_file import read_rows, row_file_name
from sdk.schemas.wire import digest_of
from workers.pipelines.data.examples import Example
from workers.pipelines.data.tokenizer import load_tokenizer
from workers.pipelines.errors import PipelineError
from workers.pipelines.scoring import language_model, row_scores, texts
from workers.pipelines.scoring.row_scores import RowScores, store_rows

SPEC = EvaluationSpec(batch_size=3, generate_rows=2, max_new_tokens=4, metrics=["rouge_l", "chrf", "bleu"])


def run(base: Path, data: Path, out: Path, spec: EvaluationSpec = SPEC) -> tuple[EvaluationReport, list[RowScore]]:
    return evaluated(base, data, out, spec)


def test_each_row_has_the_loss_that_transformers_gives_it(
    llama_base: Path, write_jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    turns = [{"role": role, "content": text} for role, text in (("user", "a b?"), ("assistant", "c"))]
    data = write_jsonl([{"messages": turns * count} for count in (1, 3, 2, 1, 2)])
    report, rows = run(llama_base, data, tmp_path, SPEC.model_copy(update={"max_length": 64}))
    assert [row.row for row in rows] == [0, 1, 2, 3, 4]
    model, tokenizer = AutoModelForCausalLM.from_pretrained(llama_base), load_tokenizer(llama_base)
    from workers.pipelines.data.rows import read_rows as read_data
    from workers.pipelines.data.tokenise import tokenise

    examples = tokenise(read_data(data), tokenizer, loss_on=None, max_length=64).examples
    for row in rows:
        of_row = [example for example in examples if example.row == row.row]
        found = sum(plain_loss(model, example) for example in of_row)
        assert row.loss_sum == pytest.approx(found, rel=1e-5)
        assert row.tokens == sum(example.supervised_tokens for example in of_row)
    assert report.metrics["loss"] == math.fsum(row.loss_sum or 0 for row in rows) / sum(row.tokens for row in rows)
    assert [row.prediction is None for row in rows] == [False, False, True, True, True]
    assert set(rows[0].scores) == {"rouge_l", "chrf", "bleu"}
    assert rows[2].scores == {}
    assert report.metrics["rouge_l"] == pytest.approx((rows[0].scores["rouge_l"] + rows[1].scores["rouge_l"]) / 2)


def test_a_row_without_a_loss_and_one_that_a_metric_stumbles_over_lose_only_that(
    llama_base: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, all_rows = run(llama_base, pairs, tmp_path)
    real = language_model.example_token_losses
    rouge = texts._SCORES["rouge_l"]

    def some_nan(*given: Any) -> Any:
        for part in real(*given):
            yield [(example, [math.nan] if example.row in (1, 4) else nats) for example, nats in part]

    def fails(answer: str, references: Sequence[str]) -> float:
        if "one" in references:
            raise RecursionError("too deep")
        return rouge.row(answer, references)

    monkeypatch.setattr(language_model, "example_token_losses", some_nan)
    monkeypatch.setitem(texts._SCORES, "rouge_l", texts.Metric(fails))
    report, rows = run(llama_base, pairs, tmp_path)
    assert [row.row for row in rows] == [row.row for row in all_rows]
    assert [row.row for row in rows if row.loss_sum is None] == [1, 4]
    others = [row for row in all_rows if row.row not in (1, 4)]
    found = report.metrics
    assert found["loss"] == pytest.approx(
        sum(row.loss_sum or 0 for row in others) / sum(row.tokens for row in others), rel=1e-12
    )
    assert (found["rows"], found["failed_rows"]) == (whole.metrics["rows"] - 2, 2)
    assert found["supervised_tokens"] == sum(row.tokens for row in others)
    # The first row has "one" as its reference.
    assert "rouge_l" not in rows[0].scores
    assert rows[1].scores == all_rows[1].scores
    assert (found["rouge_l_rows"], found["rouge_l"]) == (1, all_rows[1].scores["rouge_l"])
    assert found["chrf"] == whole.metrics["chrf"]
    assert report.conditions.failed == {"loss": digest_of([1, 4]), "rouge_l": digest_of([0])}
    assert "too deep" in capsys.readouterr().err
    # Means over other rows are no scores of equal conditions.
    assert report.conditions != whole.conditions
    assert "failed" not in whole.conditions.model_dump()


def test_where_no_row_has_a_loss_there_are_no_scores(
    llama_base: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = language_model.example_token_losses
    monkeypatch.setattr(
        language_model,
        "example_token_losses",
        lambda *given: ([(e, [math.inf]) for e, _ in part] for part in real(*given)),
    )
    with pytest.raises(PipelineError, match="loss on these rows is inf"):
        run(llama_base, pairs, tmp_path)


def test_a_row_of_several_texts_is_one_and_fails_with_any_of_them() -> None:
    examples = [Example([1, 2], [-100, 2], [], "", "", row=row) for row in (3, 3, 5)]
    scored = RowScores()
    scored.add_losses(list(zip(examples, [0.5, 0.25, 1.0], strict=True)), "train again")
    assert (scored.loss_sums, scored.tokens, scored.mean_loss) == ({3: 0.75, 5: 1.0}, {3: 2, 5: 1}, 1.75 / 3)
    scored.predictions = {3: "half \ud83d", 5: "whole"}
    assert [row.prediction for row in scored.rows(texts=True)] == ["half ?", "whole"]
    assert [row.prediction for row in scored.rows(texts=False)] == [None, None]
    # What no record can hold is no loss either.
    for bad in (math.nan, math.inf, 1e16, -1e16):
        failed = RowScores()
        failed.add_losses(list(zip(examples, [0.5, bad, 1.0], strict=True)), "train again")
        assert (failed.loss_sums, failed.failed_rows, failed.supervised_tokens) == ({5: 1.0}, 1, 1)


def test_long_predictions_are_cut_and_counted_and_the_rest_is_as_it_was(tmp_path: Path, limits: Limits) -> None:
    limits(row_scores, MOST_TEXT_BYTES=200)
    rows = [RowScore(row=n, tokens=1, loss_sum=0.1, prediction="ж" * length) for n, length in enumerate((3, 200, 99))]
    stored, cut = store_rows(tmp_path, rows)
    assert (stored.rows, cut) == (3, 2)
    path = tmp_path / row_file_name(stored.digest)
    with path.open("rb") as file:
        found = list(read_rows(file))
    assert found[0] == rows[0]
    assert sum(len((row.prediction or "").encode()) for row in found) <= 200
    assert all((row.prediction or "").endswith(CUT) for row in found[1:])
    # The same rows are the same bytes, whenever they are written.
    again, _ = store_rows(tmp_path, rows)
    assert again == stored
    assert path.read_bytes()[4:8] == bytes(4)
    assert len(gzip.decompress(path.read_bytes()).splitlines()) == 3


def test_more_rows_than_a_registry_stores_are_refused_before_any_is_scored(llama_base: Path, tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text('{"prompt": "a", "completion": "b"}\n' * 3)
    with pytest.raises(PipelineError, match=r"There are 3 rows, and 2 of this target can be scored") as refused:
        score(llama_base, data, most_rows=2)
    assert refused.value.reason == "data"
