"""What is scored of answers that a model really wrote, over templates that write thoughts and headers; and the losses of
their parts.
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from support import templates, tiny
from support.evaluated import evaluated, plain_loss
from support.trainings import run_training, save_jsonl
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from sdk.schemas.evaluation import EvaluationReport, EvaluationSpec, RowScore
from workers.pipelines.data.examples import IGNORED
from workers.pipelines.data.rows import read_rows
from workers.pipelines.data.tokenise import tokenise
from workers.pipelines.data.tokenizer import load_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore")

JSON = "[1]"
SPEC = EvaluationSpec(max_new_tokens=40, metrics=["json_valid", "exact_match", "rouge_l"], batch_size=4)


def asked(question: str) -> dict[str, str]:
    return {"role": "user", "content": question}


def answered(question: str, content: str, **rest: Any) -> dict[str, Any]:
    return {"messages": [asked(question), {"role": "assistant", "content": content, **rest}]}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with Qwen3's template."""
    return tiny.save_llama(tmp_path_factory.mktemp("qwen3"), tokenizer=templates.new_tokenizer_of("qwen3"))


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It knows its answers by heart."""
    folder = tmp_path_factory.mktemp("learnt")
    rows = save_jsonl(
        folder / "rows.jsonl",
        [answered("a?", JSON), answered("b?", "Yes.", reasoning_content="They ask."), answered("c?", "no, it rains")],
    )
    asked = {"rank": 8, "lr": 0.02, "max_steps": 80, "batch_size": 3, "grad_accum": 1, "targets": "all-linear"}
    run_training(base, rows, folder / "out", method="lora", **asked)
    return folder / "out"


def scored(
    base: Path, rows: list[dict[str, Any]], out: Path, adapter: Path | None = None, **spec: Any
) -> tuple[EvaluationReport, list[RowScore]]:
    data = save_jsonl(out / "rows.jsonl", rows)
    return evaluated(base, data, out, SPEC.model_copy(update=spec), adapter)


def test_a_model_that_knows_its_answers_gets_all_of_them_right(base: Path, adapter: Path, tmp_path: Path) -> None:
    report, (first, second) = scored(
        base, [answered("a?", JSON), answered("b?", "Yes.", reasoning_content="They ask.")], tmp_path, adapter
    )
    assert (first.prediction, first.content, first.reasoning) == (f"<think>\n\n</think>\n\n{JSON}", JSON, None)
    assert (second.content, second.reasoning) == ("Yes.", "They ask.")
    assert second.prediction == "<think>\nThey ask.\n</think>\n\nYes."
    assert [row.scores["exact_match"] for row in (first, second)] == [1.0, 1.0]
    assert [row.scores["json_valid"] for row in (first, second)] == [1.0, 0.0]
    assert report.conditions.metrics["contents"] == "1"
    sample = report.samples[0]
    assert (sample.reference, sample.content, sample.completion) == (JSON, JSON, first.prediction)


def test_every_reference_counts_as_its_template_takes_it(base: Path, adapter: Path, tmp_path: Path) -> None:
    rows = [
        {"prompt": [asked("a?")], "references": ["no", JSON]},
        {"prompt": [asked("c?")], "references": ["no", "<think>Rain?</think>no, it rains"]},
        {"prompt": [asked("c?")], "references": ["no, it rains", "<think>Rain?</think>"]},
    ]
    report, _ = scored(base, rows, tmp_path, adapter)
    assert report.metrics["exact_match"] == 1.0


def test_a_thought_that_has_no_end_is_an_empty_answer_and_counted(base: Path, adapter: Path, tmp_path: Path) -> None:
    report, (row,) = scored(base, [answered("b?", "They ask.")], tmp_path, adapter, max_new_tokens=6)
    assert report.metrics["unfinished_thought_rows"] == 1
    assert (row.content, row.scores["rouge_l"]) == ("", 0.0)
    assert row.reasoning
    whole, _ = scored(base, [answered("b?", "They ask.")], tmp_path, adapter)
    assert "unfinished_thought_rows" not in whole.metrics


def test_a_row_of_a_thought_alone_is_counted_as_unscored(base: Path, tmp_path: Path) -> None:
    rows = [answered("a?", "<think>They ask.</think>"), answered("a?", JSON)]
    report, (first, second) = scored(base, rows, tmp_path)
    assert (report.metrics["unscored_rows"], report.metrics["no_content_rows"], report.metrics["rows"]) == (1, 1, 1)
    assert (first.unscored, first.loss_sum, second.unscored) == ("no_content", None, None)


def test_the_loss_is_divided_into_scaffold_content_and_end(base: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    rows = [answered("a?", JSON), answered("b?", "Yes.", reasoning_content="They ask.")]
    report, found = scored(base, rows, tmp_path, metrics=None, generate_rows=0)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), load_tokenizer(base)
    examples = tokenise(read_rows(tmp_path / "rows.jsonl"), tokenizer, loss_on=None, max_length=1024).examples
    for row, example, content in zip(found, examples, (JSON, "Yes."), strict=True):
        *_, stop = (place for place, label in enumerate(example.labels) if label != IGNORED)
        first = next(at for at in range(stop) if tokenizer.decode(example.input_ids[at:stop]) == content)
        kept = [label if first <= place < stop else IGNORED for place, label in enumerate(example.labels)]
        only = {"content_loss_sum": kept, "end_loss": [IGNORED] * stop + example.labels[stop:]}
        for name, labels in only.items():
            expected = plain_loss(model, type(example)(example.input_ids, labels, [], "", ""))
            assert getattr(row, name) == pytest.approx(expected, rel=1e-5)
        assert row.loss_sum == pytest.approx(plain_loss(model, example), rel=1e-5)
        assert row.content_tokens == stop - first
    tokens = sum(row.content_tokens for row in found)
    assert report.metrics["content_loss"] == pytest.approx(sum(row.content_loss_sum for row in found) / tokens)
    assert report.metrics["loss"] == pytest.approx(
        sum(row.loss_sum for row in found) / sum(row.tokens for row in found)
    )


def test_texts_as_they_are_have_no_content_of_their_own(llama_base: Path, tmp_path: Path) -> None:
    said = "<think>a</think> b"
    report, (row,) = scored(llama_base, [{"prompt": "say: ", "completion": said}], tmp_path)
    assert report.samples[0].reference == said
    assert (row.content, row.reasoning) == (None, None)
    assert "contents" not in report.conditions.metrics
    assert row.content_tokens == row.tokens - 1


TEXTS = ["the cat sat on the mat", "two and two are four, das weiß 東京 🐈", "x"]


def test_bits_per_byte_of_texts_are_those_of_lm_eval(llama_base: Path, tmp_path: Path) -> None:
    """Its `loglikelihood_rolling`: all tokens of a text after one prefix token, without an end, by all its bytes."""
    import torch
    from transformers import AutoModelForCausalLM

    base = shutil.copytree(llama_base, tmp_path / "base")
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    prefix = tokenizer.token_to_id("<|pad|>")
    tokenizer.post_processor = TemplateProcessing(single="<|pad|> $A", special_tokens=[("<|pad|>", prefix)])
    tokenizer.save(str(base / "tokenizer.json"))
    model, likelihood = AutoModelForCausalLM.from_pretrained(base), 0.0
    for text in TEXTS:
        ids = [prefix, *tokenizer.encode(text, add_special_tokens=False).ids]
        with torch.no_grad():
            predicted = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        likelihood += sum(float(predicted[at, token]) for at, token in enumerate(ids[1:]))
    found, rows = scored(base, [{"text": text} for text in TEXTS], tmp_path, metrics=None)
    expected = -likelihood / sum(len(text.encode()) for text in TEXTS) / math.log(2)
    assert found.metrics["bits_per_byte"] == pytest.approx(expected, rel=1e-6)
    assert all((row.end_loss or 0) > 0.1 for row in rows)
    assert found.conditions.metrics == {"bytes": "2"}
