"""Prompts as they are sent, and those of rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sdk.asking.programs import EngineBase
from sdk.asking.prompts import PromptForm, Sampling, prompt_of_messages
from sdk.asking.rows import prompts_of_file
from sdk.asking.target import AskTarget
from sdk.errors import InvalidData, InvalidInput, NotFound

BASE = EngineBase("tiny", "0" * 64, "/base", 1, None, None)
AS_RECORDED = PromptForm.of(chat=False, plain=False)


def _target(**given: Any) -> AskTarget:
    return AskTarget("a@v1", BASE, digest="1" * 64, folder="/a", **given)


@pytest.mark.parametrize(
    ("target", "route"),
    [
        (_target(conversations=True), "/v1/chat/completions"),
        (_target(conversations=False, base_template=True), "/v1/completions"),
        (_target(base_template=True), "/v1/chat/completions"),
        (_target(), "/v1/completions"),
    ],
)
def test_a_text_is_rendered_as_the_rows_were_or_as_the_base_can(target: AskTarget, route: str) -> None:
    assert AS_RECORDED.prompt("hi", target).route == route
    assert PromptForm.of(chat=True, plain=False).prompt("hi", target).route == "/v1/chat/completions"
    assert PromptForm.of(chat=False, plain=True).prompt("hi", target).body == {"prompt": "hi"}


def test_a_guess_is_told_and_a_record_is_not() -> None:
    assert "a user's turn, since its record doesn't say" in (AS_RECORDED.remark(_target(base_template=True)) or "")
    assert AS_RECORDED.remark(_target(conversations=False)) is None
    assert PromptForm.of(chat=True, plain=False).remark(_target()) is None
    bare = _target(conversations=True).bare()
    assert (bare.ref, bare.name, AS_RECORDED.remark(bare)) == ("base:tiny", "base", None)


def test_arguments_of_calls_are_sent_as_json_texts() -> None:
    call = {"type": "function", "function": {"name": "look", "arguments": {"at": "it"}}}
    asked = [
        {"role": "user", "content": "look"},
        {"role": "assistant", "tool_calls": [call], "weight": 0},
        {"role": "tool", "name": "look", "content": "seen"},
    ]
    sent = prompt_of_messages(asked).body["messages"][1]
    assert json.loads(sent["tool_calls"][0]["function"]["arguments"]) == {"at": "it"}
    assert "weight" not in sent


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens can't be 0"),
        ({"temperature": -0.1}, "temperature can't be -0.1; use a number from 0 to 2"),
        ({"temperature": float("nan")}, "temperature can't be nan"),
        ({"top_p": 0.0}, "top_p can't be 0; use a number above 0"),
        ({"stop": ("",)}, "stop has an empty text"),
    ],
)
def test_sampling_refuses_what_no_token_can_be_chosen_by(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        Sampling(**given)


@pytest.mark.parametrize("text", ["", " \n", "half a pair \ud800"])
def test_a_prompt_that_says_nothing_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="the prompt is"):
        AS_RECORDED.prompt(text, _target())


def test_rows_of_every_shape_give_what_comes_before_their_answer(tmp_path: Path) -> None:
    user = {"role": "user", "content": "hi"}
    rows: list[dict[str, Any]] = [
        {"prompt": "one", "completion": "x"},
        {"prompt": "two", "references": ["x"]},
        {"prompt": [user], "chosen": [], "rejected": []},
        {"messages": [user, {"role": "assistant", "content": "x"}]},
        {"text": "three"},
        {"instruction": "hi"},
        {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "x"}]},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = prompts_of_file(path)
    assert [row.where for row in found] == [f"line {number}" for number in range(1, 8)]
    assert [row.prompt.shown for row in found] == ["one", "two", [user], [user], "three", [user], [user]]


def test_bad_rows_are_named_by_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(
        '{"prompt": "a"}\n{"prompt": " "}\n{"x": 1}\n[1]\n{"messages": [{"role": "assistant", "content": "x"}]}\n'
    )
    with pytest.raises(InvalidData) as raised:
        prompts_of_file(path)
    for part in ("4 of 5 rows", "line 2 has an empty `prompt`", "line 3 has none of prompt", "line 5 has nothing in"):
        assert part in raised.value.message
    with pytest.raises(NotFound, match="there is no file"):
        prompts_of_file(tmp_path / "none.jsonl")
    path.write_text("")
    with pytest.raises(InvalidData, match="has no rows"):
        prompts_of_file(path)
