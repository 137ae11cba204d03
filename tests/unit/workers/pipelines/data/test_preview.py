"""What a preview shows is what training learns: the same tokens as text, with whole characters marked."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from support import templates, tiny
from support.fixtures import Limits
from support.trainings import save_jsonl

import workers.pipelines.data.preview
from sdk.formats.rows import Row, check_rows
from sdk.schemas.preview import PreviewRequest, PreviewText
from workers.pipelines.data.examples import IGNORED, Example, ExampleMaker
from workers.pipelines.data.preview import preview, shown_text
from workers.pipelines.data.tokenise import tokenise
from workers.pipelines.errors import PipelineError

DAY = date(2026, 3, 4)
#: Three bytes and four bytes a character, marks that join the character before, and right to left.
ALPHABETS = ["ηλιόλουστος", "日本語の行", "नमस्ते", "שלום עולם", "👩‍🚀 and 🙂🙃", "e\u0301 plain é"]


def row_of(fields: dict[str, Any]) -> Row:
    """Return a row as a file would give it."""
    (row,) = check_rows([("line 1", fields)])
    return row


def shown(tokenizer: Any, fields: dict[str, Any], *, max_length: int = 4096, loss_on: Any = None) -> list[PreviewText]:
    """Return the texts of one row as they are shown."""
    row = row_of(fields)
    loss_on = loss_on or {"prompt": "completion", "messages": "assistant", "text": "all"}[row.shape]
    maker = ExampleMaker(tokenizer, loss_on, DAY, [])
    return [shown_text(1, "line 1", example, tokenizer, max_length) for example in maker.examples(row)]


def marked(text: PreviewText) -> list[str]:
    """Return the parts of a text that its spans name."""
    return [text.text[start:end] for start, end in text.supervised]


def chat(answer: str) -> dict[str, Any]:
    """Return a row with this answer."""
    return {"messages": [{"role": "user", "content": "Say it. 🙂"}, {"role": "assistant", "content": answer}]}


@pytest.mark.parametrize("answer", ALPHABETS)
@pytest.mark.parametrize("name", ["qwen2_5", "llama3", "gemma3"])
def test_an_answer_in_any_alphabet_is_marked_with_its_end_and_nothing_else(name: str, answer: str) -> None:
    tokenizer = templates.tokenizer_of(name)
    (text,) = shown(tokenizer, chat(answer))
    end = {"qwen2_5": "<|im_end|>", "llama3": "<|eot_id|>", "gemma3": "<end_of_turn>"}[name]
    assert marked(text) == [answer + end]
    assert text.supervised_text == answer + end
    assert (text.stop, text.method, text.cut_tokens, text.cut_text) == (end, "prefix", 0, "")
    rendered = tokenizer.apply_chat_template(chat(answer)["messages"], tokenize=False)
    assert text.text == rendered
    assert text.tokens == len(tokenizer(rendered, add_special_tokens=False)["input_ids"])


def test_an_answer_is_marked_without_its_reasoning_or_with_it() -> None:
    tokenizer, row = templates.tokenizer_of("qwen3"), chat("Yes. 🙂")
    row["messages"][-1]["reasoning_content"] = "They ask."
    (alone,), (both,) = (shown(tokenizer, row, loss_on=loss_on) for loss_on in ("answer", "reasoning"))
    assert marked(alone) == ["Yes. 🙂<|im_end|>"]
    assert marked(both) == ["<think>\nThey ask.\n</think>\n\nYes. 🙂<|im_end|>"]
    assert alone.text == both.text


@pytest.mark.parametrize("name", templates.names())
def test_under_each_template_what_is_marked_is_what_is_learnt(name: str) -> None:
    tokenizer = templates.tokenizer_of(name)
    row = row_of(chat("ηλιόλουστος 🙂"))
    found = tokenise([row], tokenizer, loss_on=None, max_length=4096, day=DAY, stop_ids=templates.stop_ids(name))
    (example,) = found.examples
    text = shown_text(1, "line 1", example, tokenizer, 4096)
    learnt = [label for label in example.labels if label != IGNORED]
    assert text.supervised_text == tokenizer.decode(learnt, skip_special_tokens=False)
    assert text.supervised_tokens == len(learnt)
    assert "ηλιόλουστος 🙂" in text.supervised_text
    assert {text.method: 1} == found.rendering.methods


@pytest.mark.parametrize("written", ALPHABETS)
def test_a_cut_inside_a_character_shows_the_whole_of_it(written: str) -> None:
    tokenizer = templates.tokenizer_of("qwen2_5")
    (whole,) = shown(tokenizer, {"prompt": "a", "completion": written})
    assert whole.text == f"a{written}<|im_end|>"
    inside = 0
    for length in range(2, whole.tokens + 1):
        (text,) = shown(tokenizer, {"prompt": "a", "completion": written}, max_length=length)
        assert text.text + text.cut_text == whole.text
        assert (text.tokens, text.cut_tokens) == (length, whole.tokens - length)
        assert text.supervised == [[1, len(text.text)]]
        assert text.stop == ("<|im_end|>" if length == whole.tokens else None)
        ids = tokenizer(f"a{written}")["input_ids"][:length]
        if tokenizer.decode(ids).endswith("\ufffd"):
            inside += 1
            assert len(text.text) == len(tokenizer.decode(ids).rstrip("\ufffd")) + 1
    assert inside > 0


def test_a_part_that_begins_inside_a_character_is_marked_from_its_beginning() -> None:
    tokenizer = templates.tokenizer_of("qwen2_5")
    ids = tokenizer("a🙂b")["input_ids"]
    assert len(ids) == 6
    for first in (2, 3, 4):
        labels = [IGNORED] * first + ids[first:5] + [IGNORED]
        text = shown_text(1, "line 1", Example(ids, labels, [], "", ""), tokenizer, 99)
        assert marked(text) == ["🙂"]
        assert text.text == "a🙂b"


def test_a_row_that_becomes_a_text_for_each_answer_shows_each() -> None:
    turns = [*chat("one")["messages"], *chat("two")["messages"]]
    texts = shown(templates.tokenizer_of("qwen3"), {"messages": turns})
    assert [text.method for text in texts] == ["turns", "turns"]
    assert [text.row for text in texts] == [1, 1]
    assert ["one" in text.supervised_text for text in texts] == [True, False]
    assert "two<|im_end|>" in texts[1].supervised_text


def test_a_cut_that_leaves_nothing_to_learn_marks_nothing() -> None:
    (text,) = shown(templates.tokenizer_of("qwen2_5"), {"prompt": "abcdef" * 9, "completion": "b"}, max_length=8)
    assert (text.supervised, text.supervised_text, text.supervised_tokens, text.stop) == ([], "", 0, None)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """The tokenizer of the tiny base, with a config and without weights."""
    tiny.save_tokenizer(tmp_path / "base")
    (tmp_path / "base/config.json").write_text('{"model_type": "llama", "max_position_embeddings": 64}')
    return tmp_path / "base"


def ask(base: Path, written: list[dict[str, Any]], **given: Any) -> PreviewRequest:
    """Write rows and return the request for them."""
    data = save_jsonl(base.with_name("rows.jsonl"), written)
    asked = {"loss_on": None, "max_length": 1024, "day": "2026-03-04", **given}
    return PreviewRequest(base=str(base), data=str(data), **asked)


def test_rows_and_totals_are_those_of_a_training(base: Path) -> None:
    rows = [chat("one"), chat("two 🙂" * 40), chat("three")]
    found = preview(ask(base, rows, rows=2))
    assert [text.row for text in found.rows] == [1, 2]
    assert (found.shape, found.loss_on, found.max_length, found.file_rows) == ("messages", "assistant", 64, 3)
    assert found.rows[1].tokens == 64
    assert (found.totals.samples, found.totals.rows_cut, found.totals.rows_dropped) == (3, 1, 0)
    assert found.rendering.methods == {"prefix": 3}
    (third,) = preview(ask(base, rows, row=3)).rows
    assert (third.row, third.where, third.supervised_text) == (3, "line 3", "three<|end|>")
    assert preview(ask(base, rows, row=4)).rows == []
    everything = preview(ask(base, rows, loss_on="all", row=1)).rows[0]
    assert (everything.method, everything.stop) == ("all", None)
    # The first token has nothing before it that could predict it.
    assert everything.supervised_tokens == everything.tokens - 1


def test_a_file_of_many_rows_is_not_counted(base: Path, limits: Limits) -> None:
    limits(workers.pipelines.data.preview, _MOST_COUNTED_ROWS=2)
    bad = {"messages": [{"role": "user", "content": "a", "name": "zoe"}, {"role": "assistant", "content": "b"}]}
    rows = [chat("one"), bad, chat("three")]
    found = preview(ask(base, rows, row=1))
    assert found.totals is None
    assert found.rendering.methods == {"prefix": 1}
    with pytest.raises(PipelineError, match=r"^1 of 2 rows can't be used over this base: line 2 holds `name`"):
        preview(ask(base, rows, rows=2))


def test_a_long_text_is_shown_in_the_pieces_that_are_learnt(llama_base: Path, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    said = "one two three four five six seven eight nine ten eleven twelve"
    path.write_text(json.dumps({"text": said}) + "\n")
    asked = PreviewRequest(base=str(llama_base), data=str(path), loss_on=None, max_length=16, day="2026-03-04")
    found = preview(asked)
    assert len(found.rows) > 1
    assert {(text.row, text.cut_tokens) for text in found.rows} == {(1, 0)}
    assert (found.totals.samples, found.totals.rows_cut) == (len(found.rows), 0)
    # Each piece begins with the token that the one before ends with.
    learnt = "".join(text.supervised_text for text in found.rows).removesuffix("<|end|>")
    assert said.endswith(learnt)
    assert len(said) - len(learnt) < 5
    assert [text.stop is not None for text in found.rows] == [False] * (len(found.rows) - 1) + [True]
