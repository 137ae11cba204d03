"""What is scored of an answer under each chat template that TRL ships: its content and calls, whatever the template writes
around them. What a model wrote is given as tokens; `test_contents` has a model write them.
"""

from __future__ import annotations

import hashlib
import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from support import templates

from sdk.formats.rows import check_rows
from workers.pipelines.data.examples import IGNORED, Example
from workers.pipelines.data.thoughts import Answer, read_answer
from workers.pipelines.data.tokenise import tokenise
from workers.pipelines.errors import PipelineError
from workers.pipelines.scoring.texts import score_texts

DIGESTS = json.loads((Path(__file__).parents[4] / "assets" / "chat_templates.json").read_text(encoding="utf-8"))
NAMES = templates.names()
JSON = '{"a": [1, null]}'
CALL = {"type": "function", "id": "call12345", "function": {"name": "get_weather", "arguments": {"city": "Rome"}}}


def row_with(content: str | None, **rest: Any) -> dict[str, Any]:
    tools = {"tools": [templates.WEATHER]} if "tool_calls" in rest else {}
    asked = {"role": "user", "content": "Is it warm?"}
    return {"messages": [asked, {"role": "assistant", "content": content, **rest}], **tools}


def made(name: str, row: dict[str, Any]) -> Example | None:
    """The last example of a row; None if the template doesn't render all of it."""
    rows = list(check_rows([("line 1", row)]))
    how: dict[str, Any] = {"day": date(2026, 3, 4), "stop_ids": templates.stop_ids(name), "contents": True}
    try:
        found = tokenise(rows, templates.tokenizer_of(name), loss_on=None, max_length=8192, **how)
    except PipelineError as error:
        if "rows can't be used over this base" not in str(error):
            raise
        return None
    return found.examples[-1]


def written(example: Example) -> list[int]:
    """What a model writes that has learnt the row by heart, without the token at which it stops."""
    return [label for label in example.labels if label != IGNORED][:-1]


def read(name: str, example: Example, ids: list[int], *, ended: bool = True) -> Answer:
    assert example.scaffold is not None
    return read_answer(ids, templates.tokenizer_of(name), example.scaffold, ended=ended)


def metrics(answer: Answer, *references: str) -> dict[str, float]:
    return score_texts(["exact_match", "json_valid", "rouge_l"], [answer.content], [list(references)]).metrics


@pytest.mark.parametrize("name", NAMES)
def test_the_templates_are_those_that_these_tests_were_written_for(name: str) -> None:
    """A changed one may write thoughts and headers in another way: look at what is scored of it, then note its digest."""
    found = hashlib.sha256((templates.folder() / f"{name}.jinja").read_bytes()).hexdigest()
    assert DIGESTS.get(name) == found, f"the template {name} has changed"


def test_no_template_is_missing() -> None:
    assert sorted(DIGESTS) == NAMES
    assert len(NAMES) == 41


@pytest.mark.parametrize("name", NAMES)
def test_a_perfect_answer_is_perfect(name: str) -> None:
    example = made(name, row_with(JSON))
    assert example is not None
    assert example.reference == JSON
    answer = read(name, example, written(example))
    assert answer == Answer(JSON) or answer.content.strip() == JSON
    assert set(metrics(answer, example.reference).values()) == {1.0}
    (content,) = example.contents
    tokenizer = templates.tokenizer_of(name)
    # Its first token may begin with a blank of the template.
    assert tokenizer.decode(example.input_ids[slice(*content)]) in (JSON, JSON[1:])


@pytest.mark.parametrize("name", NAMES)
def test_of_several_references_any_one_matches(name: str) -> None:
    first, second = made(name, row_with("It is warm.")), made(name, row_with("Yes, twenty degrees."))
    assert first is not None
    assert second is not None
    answer = read(name, first, written(second))
    assert metrics(answer, first.reference, "Yes, twenty degrees.")["exact_match"] == 1.0
    assert metrics(answer, first.reference)["exact_match"] == 0.0


@pytest.mark.parametrize("name", NAMES)
def test_an_unrelated_answer_scores_as_without_a_template(name: str) -> None:
    example, other = made(name, row_with("It rains in Rome today.")), made(name, row_with("Ask me later, in May."))
    assert example is not None
    assert other is not None
    said = read(name, example, written(other))
    bare = Answer("Ask me later, in May.")
    assert metrics(said, example.reference) == metrics(bare, "It rains in Rome today.")
    # A model that writes nothing before it says the same, unless its prompt has begun a thought that the row ends.
    alone = read(name, example, templates.tokenizer_of(name)("Ask me later, in May.")["input_ids"])
    assert example.scaffold is not None
    ends = example.scaffold.prompt_within and not example.scaffold.unclosed
    assert alone == (Answer("", bare.content, unfinished=True) if ends else bare)
    assert ends == name.startswith(("nemotron", "qwen3_5_think", "qwen3_6", "qwen3_8"))


@pytest.mark.parametrize("name", NAMES)
def test_blanks_that_a_template_trims_are_no_difference(name: str) -> None:
    example = made(name, row_with("  x\n y \n\n"))
    assert example is not None
    assert example.reference == "x\n y"
    assert read(name, example, written(example)).content.strip() == "x\n y"


@pytest.mark.parametrize("name", NAMES)
def test_a_content_with_the_end_of_a_thought_is_what_the_template_takes_for_it(name: str) -> None:
    for content, kept in (("a </think> b", "b"), ("<think>t</think>\n\nYes.", "Yes.")):
        example = made(name, row_with(content))
        if example is None:
            # It drops what comes before the mark.
            assert name == "deepseekv3"
            continue
        splits = example.reference == kept
        assert splits or (content == "a </think> b" == example.reference)
        answer = read(name, example, written(example))
        assert answer.content.strip() == example.reference
        assert not answer.unfinished
        text = templates.tokenizer_of(name).decode(written(example))
        if content == "a </think> b" and name.startswith(("qwen3_5", "qwen3_6", "glm", "nemotron", "deepseek_r1")):
            assert splits
            assert answer.reasoning == "a"
        if not splits:
            assert content in text


@pytest.mark.parametrize("name", NAMES)
def test_calls_are_scored_as_the_template_writes_them_in_the_row(name: str) -> None:
    for content in (None, "I look."):
        example = made(name, row_with(content, tool_calls=[CALL]))
        if example is None:
            continue
        assert "Rome" in example.reference
        assert "get_weather" in example.reference
        assert (content or "") in example.reference
        assert "think>" not in example.reference
        answer = read(name, example, written(example))
        assert answer.content.strip() == example.reference
        assert metrics(answer, example.reference)["exact_match"] == 1.0


@pytest.mark.parametrize("name", NAMES)
def test_reasoning_is_kept_apart_and_another_one_changes_no_score(name: str) -> None:
    example = made(name, row_with("Yes.", reasoning_content="They ask."))
    other, plain = made(name, row_with("Yes.", reasoning_content="I look\nout.")), made(name, row_with("Yes."))
    if example is None:
        return
    assert other is not None
    assert plain is not None
    assert example.reference == "Yes."
    # Its prompt says that there is no thought, so a row without one knows no mark that would end it.
    closed = name.endswith("nothink")
    for row in (example, other, *(() if closed else (plain,))):
        for wrote, reasoning in ((example, "They ask."), (other, "I look\nout."), (plain, "")):
            answer = read(name, row, written(wrote))
            assert (answer.content.strip(), answer.reasoning) == ("Yes.", reasoning)
    tokenizer, wrote = templates.tokenizer_of(name), written(example)
    begun = next(wrote[:count] for count in range(len(wrote)) if "They" in tokenizer.decode(wrote[:count]))
    if not closed:
        assert read(name, plain, begun, ended=False)._replace(reasoning="") == Answer("", unfinished=True)


def test_the_notation_of_another_template_is_cut_off_whole() -> None:
    example = made("llama3", row_with(JSON))
    assert example is not None
    tokenizer = templates.new_tokenizer_of("llama3")
    for thought in ("<think>\nThey ask.\n</think>\n\n", "<think>They ask.</think>"):
        answer = read_answer(tokenizer(thought + JSON)["input_ids"], tokenizer, example.scaffold, ended=True)
        assert (answer.content.strip(), answer.reasoning) == (JSON, "They ask.")
    # One in the middle is said.
    said = f"See {thought}{JSON}"
    assert read_answer(tokenizer(said)["input_ids"], tokenizer, example.scaffold, ended=True) == Answer(said)
    begun = read_answer(tokenizer("<think>They ask")["input_ids"], tokenizer, example.scaffold, ended=False)
    assert begun == Answer("", "They ask", unfinished=True)


def test_a_mark_that_the_row_itself_begins_with_is_said() -> None:
    content = "<think> begins a thought"
    example = made("llama3", row_with(content))
    assert example is not None
    assert example.reference == content
    assert read("llama3", example, written(example)) == Answer(content)


def test_a_row_without_content_and_calls_is_counted_and_not_scored() -> None:
    rows = list(check_rows([("line 1", row_with("<think>They ask.</think>")), ("line 2", row_with("Yes."))]))
    for name in ("qwen3", "qwen2_5", "llama3"):
        found = tokenise(rows, templates.tokenizer_of(name), loss_on=None, max_length=8192, contents=True)
        assert found.left_out == {0: "no_content"}
        assert [example.row for example in found.examples] == [1]
        learnt = tokenise(rows, templates.tokenizer_of(name), loss_on=None, max_length=8192)
        assert learnt.left_out == {}


@pytest.mark.parametrize("name", ["qwen3", "llama3", "gptoss"])
def test_each_learnt_answer_has_its_content(name: str) -> None:
    row = {"messages": [*row_with("Yes.")["messages"], {"role": "user", "content": "And dry?"}]}
    row["messages"].append({"role": "assistant", "content": "No, it rains."})
    tokenizer = templates.tokenizer_of(name)
    for loss_on in ("assistant", "all"):
        rows = list(check_rows([("line 1", row)]))
        how: dict[str, Any] = {"day": date(2026, 3, 4), "stop_ids": templates.stop_ids(name), "contents": True}
        found = tokenise(rows, tokenizer, loss_on=loss_on, max_length=8192, **how)
        said = [tokenizer.decode(each.input_ids[slice(*run)]) for each in found.examples for run in each.contents]
        assert said == ["Yes.", "No, it rains."]
