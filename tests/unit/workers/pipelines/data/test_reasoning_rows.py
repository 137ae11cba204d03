"""What is learnt of answers with their reasoning, and without, under each chat template that TRL ships."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest
from support import templates, tiny
from support.evaluated import plain_loss
from support.trainings import run_training, save_jsonl

from sdk.formats.rows import check_rows
from workers.pipelines.data.examples import IGNORED, Example
from workers.pipelines.data.rows import read_rows
from workers.pipelines.data.tokenise import Tokenised, tokenise
from workers.pipelines.data.tokenizer import load_tokenizer
from workers.pipelines.errors import PipelineError

NAMES = templates.names()
#: Templates that write a reasoning beside a content; under the others such rows are refused.
THINKING = [
    "diffusion_gemma",
    "gemma4_v5",
    "glm4moe",
    "gptoss",
    "lfm2_2_5",
    "lfm2_2_5_v2",
    "lfm2_2_5_vl",
    "muse_glimmer",
    "nemotron_3_5_lightning",
    "nemotron_3_nano",
    "nemotron_3_super",
    "nemotron_3_ultra",
    "qwen3",
    "qwen3_5_nothink",
    "qwen3_5_think",
    "qwen3_6",
    "qwen3_8",
]
CALL = {"type": "function", "id": "call12345", "function": {"name": "get_weather", "arguments": {"city": "Rome"}}}
THOUGHT = "They ask."


def asked(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


def answer(content: str | None, **rest: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **rest}


def tokenised(name: str, *messages: dict[str, Any], loss_on: Any, **options: Any) -> Tokenised:
    tools = {"tools": [templates.WEATHER]} if any("tool_calls" in message for message in messages) else {}
    rows = list(check_rows([("line 1", {"messages": list(messages), **tools})]))
    how = {"day": date(2026, 3, 4), "stop_ids": templates.stop_ids(name), "max_length": 8192, **options}
    return tokenise(rows, templates.tokenizer_of(name), loss_on=loss_on, **how)


def example_of(name: str, *messages: dict[str, Any], loss_on: Any) -> Example:
    (example,) = tokenised(name, *messages, loss_on=loss_on).examples
    return example


def attempted(name: str, *messages: dict[str, Any], loss_on: Any) -> Example | None:
    """The example; None if the template doesn't render all of the row."""
    try:
        return example_of(name, *messages, loss_on=loss_on)
    except PipelineError as error:
        if "rows can't be used over this base" not in error.message:
            raise
        return None


def refusal(name: str, *messages: dict[str, Any], loss_on: Any) -> str:
    with pytest.raises(PipelineError) as caught:
        tokenised(name, *messages, loss_on=loss_on)
    return caught.value.message


def learnt(name: str, example: Example) -> str:
    return str(templates.tokenizer_of(name).decode([label for label in example.labels if label != IGNORED]))


def test_the_templates_that_write_reasoning_are_those_that_are_named() -> None:
    row = (asked("Is it warm?"), answer("Yes.", reasoning_content=THOUGHT))
    assert [name for name in NAMES if attempted(name, *row, loss_on="assistant") is not None] == THINKING


@pytest.mark.parametrize("name", THINKING)
def test_an_answer_is_learnt_with_its_reasoning_or_without(name: str) -> None:
    row = (asked("Is it warm?"), answer("Yes.", reasoning_content=THOUGHT))
    whole, alone, both = (example_of(name, *row, loss_on=on) for on in ("assistant", "answer", "reasoning"))
    assert learnt(name, alone) == "Yes." + templates.tokenizer_of(name).decode([alone.stop])
    before, thought, after = learnt(name, both).partition(THOUGHT)
    assert thought == THOUGHT
    assert after.endswith(learnt(name, alone))
    assert "Is it warm?" not in before
    # What the model reads is the same, and so is what it has always learnt of an assistant.
    assert both == whole
    assert alone.input_ids == whole.input_ids
    assert alone.prompt_ids == whole.prompt_ids


@pytest.mark.parametrize("name", THINKING)
def test_calls_belong_to_the_answer_and_scaffold_does_not(name: str) -> None:
    for content in ("I look.", None):
        row = (asked("Is it warm?"), answer(content, tool_calls=[CALL]))
        found = attempted(name, *row, loss_on="assistant")
        if found is None:
            continue
        whole, alone = learnt(name, found), learnt(name, example_of(name, *row, loss_on="answer"))
        assert whole.endswith(alone)
        assert all(part in alone for part in ("get_weather", "Rome", content or ""))
        assert "think>" not in alone
        assert not {"get_weather", content} & set(whole.removesuffix(alone).split())


@pytest.mark.parametrize("name", ["llama3", "smolvlm", *THINKING])
def test_an_answer_without_reasoning_is_refused_by_row(name: str) -> None:
    row = (asked("Is it warm?"), answer("Yes."))
    message = refusal(name, *row, loss_on="reasoning")
    assert "line 1 has an answer, message 2, that the base's chat template renders without reasoning" in message
    assert learnt(name, example_of(name, *row, loss_on="answer")).startswith("Yes.")


@pytest.mark.parametrize("name", ["llama3", "qwen2_5", "qwen3"])
def test_a_thought_in_the_content_is_reasoning_under_every_template(name: str) -> None:
    row = (asked("Is it warm?"), answer(f"<think>{THOUGHT}</think>Yes."))
    end = templates.tokenizer_of(name).decode([example_of(name, *row, loss_on="answer").stop])
    assert learnt(name, example_of(name, *row, loss_on="answer")) == "Yes." + end
    assert THOUGHT in learnt(name, example_of(name, *row, loss_on="reasoning"))


def test_earlier_answers_are_learnt_with_the_reasoning_that_they_were_given_with() -> None:
    """Qwen3 drops it once a user has said more: each answer is a text of its own, rendered as for generating it."""
    row = [
        asked("Is it warm?"),
        answer("Yes.", reasoning_content="First."),
        asked("And dry?"),
        answer("No.", reasoning_content="Second."),
    ]
    for on, parts in (
        ("reasoning", ["<think>\nFirst.\n</think>\n\nYes.<|im_end|>", "<think>\nSecond.\n</think>\n\nNo.<|im_end|>"]),
        ("answer", ["Yes.<|im_end|>", "No.<|im_end|>"]),
    ):
        found = tokenised("qwen3", *row, loss_on=on)
        assert found.rendering.methods == {"turns": 2}
        assert [learnt("qwen3", example) for example in found.examples] == parts
        *_, last = (templates.tokenizer_of("qwen3").decode(example.input_ids) for example in found.examples)
        assert "First." not in last


def test_an_earlier_answer_without_reasoning_may_be_left_out() -> None:
    earlier, last = answer("Yes."), answer("No.", reasoning_content="Second.")
    message = refusal("qwen3", asked("Is it warm?"), earlier, asked("And dry?"), last, loss_on="reasoning")
    assert "message 2," in message
    assert "`weight` of 0" in message
    rest = ({**earlier, "weight": 0}, asked("And dry?"), last)
    example = example_of("qwen3", asked("Is it warm?"), *rest, loss_on="reasoning")
    assert learnt("qwen3", example) == "<think>\nSecond.\n</think>\n\nNo.<|im_end|>"
    both = tokenised("qwen3", asked("Is it warm?"), earlier, asked("And dry?"), last, loss_on="answer")
    assert [learnt("qwen3", each) for each in both.examples] == ["Yes.<|im_end|>", "No.<|im_end|>"]
    # Under a template that renders both at once, they are in one text.
    both = tokenised("qwen2_5", asked("Is it warm?"), earlier, asked("And dry?"), answer("No."), loss_on="answer")
    assert [learnt("qwen2_5", each) for each in both.examples] == ["Yes.<|im_end|>No.<|im_end|>"]


def test_a_token_that_begins_in_the_scaffold_is_learnt_with_the_content_in_it() -> None:
    row = (asked("Is it warm?"), answer("it is sunny"))
    found = example_of("smolvlm", *row, loss_on="answer")
    assert learnt("smolvlm", found) == " it is sunny<end_of_utterance>"
    assert templates.tokenizer_of("smolvlm").decode(next(label for label in found.labels if label != IGNORED)) == " i"


def test_a_thought_alone_is_refused_and_an_evaluation_counts_it() -> None:
    row = (asked("Is it warm?"), answer(f"<think>{THOUGHT}</think>"))
    assert "message 2, with neither content nor calls" in refusal("qwen3", *row, loss_on="answer")
    rows = list(check_rows([("line 1", {"messages": list(each)}) for each in (row, (row[0], answer("Yes.")))]))
    how: dict[str, Any] = {"loss_on": "answer", "max_length": 64, "contents": True}
    found = tokenise(rows, templates.tokenizer_of("qwen3"), **how)
    assert found.left_out == {0: "no_content"}
    assert THOUGHT in learnt("qwen3", example_of("qwen3", *row, loss_on="reasoning"))
    # Nothing of an earlier one is scored.
    later = (asked("And dry?"), answer("No."))
    (example,) = tokenised("qwen2_5", *row, *later, loss_on="answer", contents=True).examples
    assert learnt("qwen2_5", example) == "No.<|im_end|>"


@pytest.mark.parametrize("loss_on", ["answer", "reasoning"])
def test_rows_that_keep_no_reasoning_apart_are_refused_in_a_sentence(loss_on: Any) -> None:
    for fields in ({"prompt": "a", "completion": "b"}, {"text": "a"}):
        rows = list(check_rows([("line 1", fields)]))
        with pytest.raises(PipelineError, match=rf"a loss on '{loss_on}' needs {{messages}} rows, .* set loss_on to"):
            tokenise(rows, templates.tokenizer_of("qwen3"), loss_on=loss_on, max_length=64)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with Qwen3's template."""
    return tiny.save_llama(tmp_path_factory.mktemp("qwen3"), tokenizer=templates.new_tokenizer_of("qwen3"))


@pytest.mark.filterwarnings("ignore")
def test_a_training_has_the_loss_of_what_it_learns(base: Path, tmp_path: Path) -> None:
    """One step over all rows: cross-entropy by hand, over the tokens of text parts that are found by their marks."""
    from transformers import AutoModelForCausalLM

    contents = [("Yes.", THOUGHT), ("no, it rains", "I look\nout.")]
    rows = save_jsonl(
        tmp_path / "rows.jsonl",
        [{"messages": [asked("a?"), answer(said, reasoning_content=thought)]} for said, thought in contents],
    )
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), load_tokenizer(base)
    losses = {}
    for loss_on in ("answer", "reasoning", "assistant"):
        # From the last mark before what is learnt.
        mark = "</think>\n\n" if loss_on == "answer" else "<|im_start|>assistant\n"
        total = tokens = 0.0
        for example in tokenise(read_rows(rows), tokenizer, loss_on="all", max_length=256).examples:
            text = tokenizer.decode(example.input_ids)
            ends = [len(tokenizer.decode(example.input_ids[: at + 1])) for at in range(len(example.input_ids))]
            begins, stop = text.rindex(mark) + len(mark), text.rindex("<|im_end|>") + len("<|im_end|>")
            pairs = zip(example.input_ids, ends, strict=True)
            labels = [token if begins < end <= stop else IGNORED for token, end in pairs]
            total += plain_loss(model, Example(example.input_ids, labels, [], "", ""))
            tokens += sum(label != IGNORED for label in labels)
        options = {"rank": 2, "dropout": 0.0, "max_steps": 1, "batch_size": 2, "grad_accum": 1, "loss_on": loss_on}
        report = run_training(base, rows, tmp_path / loss_on, method="lora", **options)
        assert report.supervised_tokens == tokens
        assert report.metrics["loss"] == pytest.approx(total / tokens, rel=1e-5)
        assert report.training["loss_on"] == loss_on
        losses[loss_on] = report.metrics["loss"]
    assert losses["reasoning"] == losses["assistant"] != losses["answer"]
