"""What is scored of answers that a model really wrote, over templates that write thoughts and headers; and the losses of
their parts.
"""

from __future__ import annotations

import math
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from support import templates, tiny
from support.evaluated import evaluated, plain_loss
from support.trainings import run_training, save_jsonl
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from sdk.schemas.evaluation import EvaluationReport, EvaluationSpec, RowScore
from sdk.schemas.scores import EvaluationView
from workers.pipelines.data.examples import IGNORED
from workers.pipelines.data.rows import read_rows
from workers.pipelines.data.tokenise import tokenise
from workers.pipelines.data.tokenizer import load_tokenizer
from workers.pipelines.errors import PipelineError

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


def test_only_a_thought_that_reaches_its_limit_is_ended(base: Path, adapter: Path, tmp_path: Path) -> None:
    rows = [answered("a?", JSON), answered("b?", "Yes."), answered("c?", "no, it rains"), answered("b?", "Yes.")]
    found = []
    for batch_size in (1, 4):
        how = {"max_thought_tokens": 3, "max_new_tokens": 20, "batch_size": batch_size}
        report, scores = scored(base, rows, tmp_path, adapter, **how)
        assert report.metrics["ended_thought_rows"] == 2
        assert "unfinished_thought_rows" not in report.metrics
        found.append([(row.prediction, row.content, row.reasoning, row.scores) for row in scores])
    assert found[0] == found[1]
    first, second, third, _ = found[0]
    # It writes an empty thought by itself, and of the longer one only so many tokens.
    assert first[:2] == (f"<think>\n\n</think>\n\n{JSON}", JSON)
    assert third[1] == "no, it rains"
    thought = load_tokenizer(base).decode(load_tokenizer(base)("\nThey ask.")["input_ids"][:3])
    assert second[0].startswith(f"<think>{thought}\n</think>\n\n")
    assert second[2] == thought.strip()
    assert second[1]


def test_answers_are_scored_without_their_reasoning_or_with_it(base: Path, adapter: Path, tmp_path: Path) -> None:
    rows = [answered("b?", "Yes.", reasoning_content="They ask."), answered("c?", "no", reasoning_content="Rain?")]
    whole, alone, both = (
        scored(base, rows, tmp_path, adapter, loss_on=loss_on, metrics=None, generate_rows=0)
        for loss_on in ("assistant", "answer", "reasoning")
    )
    assert [report.conditions.loss_on for report, _ in (whole, alone, both)] == ["assistant", "answer", "reasoning"]
    for every, part, other in zip(whole[1], alone[1], both[1], strict=True):
        assert part.loss_sum == pytest.approx(every.content_loss_sum + every.end_loss, rel=1e-6)
        assert part.tokens == every.content_tokens + 1 < every.tokens
        assert (part.content_loss_sum, part.end_loss) == (every.content_loss_sum, every.end_loss)
        assert other == every
    views = [view_of(report) for report, _ in (whole, alone, both)]
    assert len({view.key for view in views}) == 3
    assert views[0].unlike(views[1]) == ["loss_on"]
    with pytest.raises(
        PipelineError, match="line 1 has an answer, message 2, that the base's chat template renders with"
    ):
        scored(base, [answered("a?", JSON)], tmp_path, loss_on="reasoning")


def view_of(report: EvaluationReport) -> EvaluationView:
    """A report as it is stored."""
    return EvaluationView(
        id="1",
        namespace="team",
        ref="a@v1",
        digest=None,
        base_fingerprint="b" * 64,
        dataset="1" * 64,
        grader="loss",
        precision=report.precision,
        conditions=report.conditions.model_dump(),
        metrics=report.metrics,
        samples=[],
        spec_digest="5" * 64,
        job="j1",
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


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
