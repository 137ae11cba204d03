"""Rows that would be trained as something else than was meant: each is refused before it is sent, by line and key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sdk.errors import InvalidData, InvalidInput
from sdk.validation import check_data

USER = {"role": "user", "content": "q"}
ANSWER = {"role": "assistant", "content": "a"}
FUNCTION = {"name": "weather", "arguments": {"city": "Rome"}}
CALL = {"id": "call1", "type": "function", "function": FUNCTION}
CALLS = {"role": "assistant", "tool_calls": [CALL]}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}


def chat(*messages: Any, **rest: Any) -> dict[str, Any]:
    return {"messages": [USER, *messages], **rest}


def calling(call: Any, **rest: Any) -> dict[str, Any]:
    return chat({"role": "assistant", "tool_calls": [call], **rest})


#: A row, and what is said of it after its line.
BAD: list[tuple[Any, str]] = [
    # The whole row.
    ([USER, ANSWER], "is not an object but a list"),
    ("text", "is not an object but a text"),
    ({}, "has none of the shapes"),
    (
        {"question": "q", "answer": "a"},
        "{conversations}, but the keys `question`, `answer`; say which they are, as with "
        "--columns prompt=question,completion=answer",
    ),
    ({"q": "q", "a": "a", **dict.fromkeys("bcdefghi", "x")}, "`g` and 2 more; say which they are"),
    (
        {"prompt": "p", "response": "r"},
        "but the keys `prompt`, `response`; say which it is, as with --columns prompt=prompt,completion=response",
    ),
    (
        {"question": "p", "completion": "r"},
        "has no `prompt`, but the keys `question`, `completion`; say which it is, as with --columns prompt=question,completion=completion",
    ),
    ({"text": "a", "id": 7}, "would be lost: `id`; leave them out with --columns text=text"),
    ({"text": None}, "has none of the shapes"),
    # Labels.
    ({"label": "a"}, "has no `text`"),
    ({"text": " ", "label": "a"}, "has an empty `text`"),
    ({"text": "a", "label": ""}, "has an empty `label`"),
    ({"text": "a", "label": " \t"}, "has an empty `label`"),
    ({"text": "a", "label": "spam "}, "has a `label` with spaces around it, 'spam '"),
    ({"text": "a", "label": "a\u200bb"}, "has a `label` with characters that can't be shown"),
    ({"text": "a", "label": "a\nb"}, "has a `label` with characters that can't be shown"),
    ({"text": "a", "label": "\ud800"}, "has a `label` with characters that can't be shown"),
    ({"text": "a", "label": "x" * 101}, "has a `label` of more than 100 characters"),
    ({"text": "a", "label": True}, "neither a text nor a whole number but true or false"),
    ({"text": "a", "label": 0.5}, "neither a text nor a whole number but a decimal number"),
    ({"text": "a", "label": ["x"]}, "neither a text nor a whole number but a list"),
    ({"text": "a", "label": "x", "id": 7}, "keys besides `text` and `label` that would be lost: `id`"),
    (
        {"prompt": "p", "completion": "c", "label": "x"},
        "or leave it out with --columns prompt=prompt,completion=completion",
    ),
    ({"text": "a", "id": 7}, "keys besides `text` that would be lost: `id`"),
    (
        {"prompt": "p", "completion": "c", "weight": 0},
        "keys besides `prompt` and `completion` that would be lost: `weight`",
    ),
    ({"prompt": "p", "completion": "c", "messages": [USER]}, "that would be lost: `messages`"),
    ({"prompt": "p", "completion": "c", "tools": [TOOL]}, "that would be lost: `tools`"),
    # Preferences.
    ({"prompt": "p", "chosen": "c"}, "has no `rejected`, but the keys `prompt`, `chosen`; say which it is"),
    (
        {"question": "p", "chosen": "c", "rejected": "r"},
        "has no `prompt`, but the keys `question`, `chosen`, `rejected`; say which it is, as with --columns "
        "prompt=question,chosen=chosen,rejected=rejected",
    ),
    ({"chosen": [USER, ANSWER], "rejected": [USER, ANSWER]}, "has no `prompt`"),
    (
        {"prompt": "p", "chosen": "c", "rejected": "c"},
        "has a `chosen` equal to its `rejected`, so nothing is preferred",
    ),
    ({"prompt": "p", "chosen": " ", "rejected": "c"}, "has an empty `chosen`"),
    ({"prompt": "p", "chosen": "c", "rejected": ""}, "has an empty `rejected`"),
    ({"prompt": "p", "chosen": 7, "rejected": "c"}, "has a `chosen` that is not text but a whole number"),
    (
        {"prompt": "p", "chosen": [ANSWER], "rejected": "c"},
        "has a `prompt` that is a text and a `chosen` that is a list of",
    ),
    (
        {"prompt": [USER], "chosen": "c", "rejected": "d"},
        "has a `chosen` that is a text and a `prompt` that is a list of",
    ),
    (
        {"prompt": "p", "chosen": "c", "rejected": "d", "score": 1},
        "that would be lost: `score`; leave them out with --columns prompt=prompt,chosen=chosen,rejected=rejected",
    ),
    ({"prompt": "p", "completion": "c", "chosen": "c", "rejected": "d"}, "that would be lost: `completion`"),
    (
        {"prompt": [USER], "chosen": [ANSWER], "rejected": [{**ANSWER, "content": [{"type": "text", "text": "a"}]}]},
        "has a `chosen` equal to its `rejected`",
    ),
    (
        {"prompt": [USER], "chosen": [USER, ANSWER], "rejected": [ANSWER]},
        "`chosen` that does not begin with an assistant",
    ),
    ({"prompt": [USER], "chosen": [{**ANSWER, "weight": 1}], "rejected": [CALLS]}, "has a `weight` in an answer"),
    (chat(ANSWER, weight=0), "keys besides `messages` and `tools` that would be lost: `weight`"),
    (chat(ANSWER, source="x", split="train"), "that would be lost: `source`, `split`"),
    (chat(ANSWER, documents=[{"text": "d"}]), "that would be lost: `documents`"),
    # Texts.
    ({"prompt": "p"}, "has no `completion`"),
    ({"completion": "c"}, "has no `prompt`"),
    ({"prompt": "p", "completion": " "}, "has an empty `completion`"),
    ({"prompt": 3, "completion": "c"}, "has a `prompt` that is not text but a whole number"),
    ({"prompt": [USER], "completion": "c"}, "has a `prompt` that is not text but a list"),
    ({"text": "\ud800"}, "has a `text` with half a surrogate pair"),
    # Messages.
    ({"messages": []}, "has `messages` that is not a list of messages, or is empty"),
    ({"messages": {"role": "user"}}, "has `messages` that is not a list of messages"),
    ({"messages": "[broken"}, "has `messages` that is not a JSON list"),
    ({"messages": ["hello"]}, "message 1 of `messages` without a role"),
    ({"messages": [{"content": "q"}]}, "message 1 of `messages` without a role"),
    (chat({"role": "robot", "content": "x"}), "message 2 of `messages` without a role"),
    (chat({"role": ["assistant"], "content": "x"}), "message 2 of `messages` without a role"),
    (chat({**ANSWER, "mood": "good"}), "has a key `mood` in message 2 of `messages`, which would be lost"),
    (chat({**ANSWER, "function_call": FUNCTION}), "has a key `function_call` in message 2 of `messages`"),
    (chat({**ANSWER, "refusal": "no"}), "has a key `refusal` in message 2 of `messages`"),
    (chat(ANSWER, {**USER, "weight": 1}), "has a key `weight` in message 3 of `messages`, whose role user"),
    (chat(ANSWER, {**USER, "tool_calls": [CALL]}), "has a key `tool_calls` in message 3"),
    (chat({**ANSWER, "tool_call_id": "call1"}), "has a key `tool_call_id` in message 2"),
    (chat(ANSWER, {**USER, "reasoning_content": "r"}), "has a key `reasoning_content` in message 3"),
    # Contents.
    (chat({"role": "user", "content": None}), "message 2 of `messages` without a text as `content`"),
    (chat({"role": "assistant"}), "message 2 of `messages` without a text as `content`"),
    (chat({"role": "assistant", "content": 7}), "message 2 of `messages` without a text as `content`"),
    (chat({"role": "assistant", "content": ""}), "has an empty `content` in message 2 of `messages`"),
    (chat({"role": "assistant", "content": "", "reasoning_content": "r"}), "has an empty `content` in message 2"),
    (chat({"role": "assistant", "content": "", "tool_calls": []}), "has an empty `content` in message 2"),
    (chat({"role": "assistant", "content": "\ud800"}), "half a surrogate pair in message 2"),
    (chat({**USER, "content": [{"type": "image_url", "image_url": {"url": "x"}}]}), "not plain text but 'image_url'"),
    (chat({**USER, "content": [{"type": "text", "text": "a", "cache": 1}]}), "a part of `content` in message 2"),
    (
        chat({**USER, "content": ["a"]}),
        "a part of `content` in message 2 of `messages` that is not plain text but 'str'",
    ),
    (chat({**USER, "name": " "}), "has no text as `name` in message 2"),
    # Reasoning and weights.
    (
        chat({**ANSWER, "reasoning_content": ["r"]}),
        "has a `reasoning_content` in message 2 of `messages` that is not text",
    ),
    (chat({**ANSWER, "reasoning": "a", "thinking": "b"}), "has `thinking` and `reasoning` in message 2"),
    (chat({**ANSWER, "weight": 0.5}), "has a `weight` in message 2 of `messages` that is neither 0 nor 1"),
    (chat({**ANSWER, "weight": True}), "has a `weight` in message 2"),
    (chat({**ANSWER, "weight": "0"}), "has a `weight` in message 2"),
    (
        {"prompt": [USER, {**ANSWER, "weight": 1}, USER], "completion": [ANSWER]},
        "`weight` of 1 in message 2 of `prompt`",
    ),
    # Calls of tools.
    (
        chat({"role": "assistant", "tool_calls": CALL}),
        "has `tool_calls` in message 2 of `messages` that are not a list",
    ),
    (calling("weather"), "tool call 1 of message 2 of `messages` that is not an object"),
    (calling({"type": "function"}), "tool call 1 of message 2 of `messages` without a `function`"),
    (calling({**CALL, "type": "code"}), "tool call 1 of message 2 of `messages` whose type is not function"),
    (calling({**CALL, "result": "x"}), "has a key `result` in tool call 1"),
    (calling({"function": {"arguments": {}}}), "has no text as `name` in tool call 1"),
    (calling({"function": {**FUNCTION, "strict": True}}), "has a key `strict` in tool call 1"),
    (calling({"function": {"name": "f", "arguments": "{broken"}}), "has `arguments` in tool call 1"),
    (calling({"function": {"name": "f", "arguments": [1]}}), "has `arguments` in tool call 1"),
    (calling({**CALL, "id": 7}), "has no text as `id` in tool call 1"),
    # Tools.
    (chat(ANSWER, tools=[]), "has `tools` that is not a list of functions, or is empty"),
    (chat(ANSWER, tools={"name": "f"}), "has `tools` that is not a list of functions"),
    (chat(ANSWER, tools=["f"]), "has a tool 1 in `tools` without a `name`"),
    (chat(ANSWER, tools=[TOOL, {"type": "function", "function": {}}]), "has a tool 2 in `tools` without a `name`"),
    # Alpaca.
    ({"instruction": "i", "input": "x"}, "has no `output`"),
    ({"output": "o"}, "has no `instruction`"),
    ({"instruction": " ", "output": "o"}, "has an empty `instruction`"),
    ({"instruction": "i", "output": ""}, "has an empty `output`"),
    ({"instruction": "i", "output": ["o"]}, "has a `output` that is not text but a list"),
    ({"instruction": "i", "input": 3, "output": "o"}, "has an `input` that is not text but a whole number"),
    ({"instruction": "i", "output": "o", "system": 3}, "has a `system` that is not text but a whole number"),
    ({"instruction": "i", "output": "o", "history": [["a", "b"]]}, "that would be lost: `history`"),
    (
        {"instruction": "i", "output": "o", "text": "t"},
        "would be lost: `text`; leave them out with --columns instruction=instruction,output=output",
    ),
    ({"instruction": "\ud800", "output": "o"}, "half a surrogate pair"),
    # ShareGPT.
    ({"conversations": []}, "has `conversations` that is not a list of messages, or is empty"),
    ({"conversations": "hi"}, "has a conversations that is not JSON"),
    ({"conversations": ["hi"]}, "has a message 1 of `conversations` without a `from` of"),
    ({"conversations": [{"from": "robot", "value": "hi"}]}, "message 1 of `conversations` without a `from` of"),
    ({"conversations": [{"from": ["gpt"], "value": "hi"}]}, "message 1 of `conversations` without a `from` of"),
    (
        {"conversations": [{"role": "user", "content": "hi"}]},
        "with `role` and no `from`; give them as messages: --columns messages=conversations",
    ),
    (
        {"conversations": [{"from": "human"}, {"from": "gpt", "value": "a"}]},
        "message 1 of `conversations` without a text as `content`",
    ),
    (
        {"conversations": [{"from": "human", "value": "a", "time": 3}]},
        "has a key `time` in message 1 of `conversations`, which would be lost",
    ),
    (
        {"conversations": [{"from": "gpt", "value": "a", "weight": 0.5}]},
        "has a `weight` in message 1 of `conversations`",
    ),
    (
        {"conversations": [{"from": "function_call", "value": "f()"}]},
        "has a message 1 of `conversations` that is not JSON",
    ),
    ({"conversations": [{"from": "gpt", "value": "a"}], "tools": "f"}, "has `tools` that is not a JSON list"),
    ({"conversations": [{"from": "gpt", "value": "a"}], "id": "7"}, "that would be lost: `id`"),
    # A label.
    ({"text": "t", "label": None}, "has a `label` that is null"),
    # A completion.
    (
        {"prompt": [USER], "completion": [USER]},
        "has a `completion` that does not begin with an assistant message",
    ),
    ({"prompt": [], "completion": [ANSWER]}, "has `prompt` that is not a list of messages, or is empty"),
]


def _good_beside(row: Any) -> bytes:
    """A line of the same shape as the bad one, so that its own fault is the only one."""
    if isinstance(row, dict) and "text" in row:
        return b'{"text": "t"}'
    if isinstance(row, dict) and ("messages" in row or "conversations" in row) and "prompt" not in row:
        return json.dumps(chat(ANSWER)).encode()
    return b'{"prompt": "p", "completion": "c"}'


@pytest.mark.parametrize(("row", "said"), BAD)
def test_a_bad_row_is_refused_by_line_and_key(row: Any, said: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    # A blank line counts as a line.
    path.write_bytes(_good_beside(row) + b"\n\n" + json.dumps(row).encode() + b"\n")
    with pytest.raises(InvalidData) as caught:
        check_data(path, param="eval_data")
    assert caught.value.param == "eval_data"
    assert caught.value.message.startswith(f"{path}: 1 of 2 rows can't be used: line 3 ")
    assert said in caught.value.message


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"text": "a", "text": "b"}', "line 1 is not a JSON object .it has the key 'text' twice"),
        (b'{"messages": [{"role": "user", "content": "a", "content": "b"}]}', "the key 'content' twice"),
        (b'{"text": NaN}', "NaN is not a JSON number"),
        (b'{"text": "a"', "line 1 is not a JSON object"),
        (
            b'{"messages": [{"role": "assistant", "tool_calls": [{"name": "f", "arguments": {"a": 1e999}}]}]}',
            "1e999 is not a JSON number",
        ),
        (
            rb'{"messages": [{"role": "assistant", "tool_calls": [{"name": "f", "arguments": "{\"a\": 1e999}"}]}]}',
            "`arguments` in tool call 1 of message 1",
        ),
        (
            rb'{"messages": [{"role": "assistant", "tool_calls": [{"name": "f", "arguments": "{\"a\": \"\\ud800\"}"}]}]}',
            "half a surrogate pair in tool call 1 of message 1",
        ),
    ],
)
def test_what_a_reader_of_json_would_lose_is_refused(line: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(line + b"\n")
    with pytest.raises(InvalidData, match=said):
        check_data(path)


def test_a_column_of_a_csv_file_that_would_be_lost_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('prompt,completion,id\np,c,7\n"p",c,\n')
    with pytest.raises(InvalidData, match=r"1 of 2 rows can't be used: line 2 .* that would be lost: `id`"):
        check_data(path)


GOOD: list[Any] = [
    chat(ANSWER, tools=[TOOL]),
    chat(ANSWER, tools=json.dumps([TOOL])),
    chat({"role": "assistant", "content": None, "tool_calls": [CALL], "refusal": None}),
    chat({"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": '{"a": 1}'}]}),
    chat(
        {"role": "assistant", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call1", "name": "weather", "content": "sunny"},
        {**ANSWER, "reasoning": "r"},
    ),
    chat({"role": "assistant", "content": "", "weight": 0}, USER, {**ANSWER, "weight": 1}),
    chat({**ANSWER, "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}),
    {"prompt": [USER], "completion": [ANSWER], "tools": [TOOL]},
    {"messages": json.dumps([USER, ANSWER])},
]


@pytest.mark.parametrize("row", GOOD)
def test_a_row_of_which_every_key_is_used_is_taken(row: Any, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    assert check_data(path).rows == 1


#: The name of a file, its bytes, the columns that are said of it, and what is said of it.
FILES: list[tuple[str, bytes, str | None, str]] = [
    ("a.jsonl", b"prompt,completion\na,b\n", None, "line 1 is not a JSON object"),
    ("a.JSONL", b"text\n", None, "line 1 is not a JSON object"),
    (
        "a.ndjson",
        b'{"text": "a"}\ntext\n{"text": "b"}\n',
        None,
        "1 of 3 rows can't be used: line 2 is not a JSON object",
    ),
    (
        "a.jsonl",
        b'[\n{"text": "a"}\n]\n',
        None,
        "line 1 is not a JSON object (only its beginning, [: write each row in one line",
    ),
    (
        "a.jsonl",
        b'{\n"text": "a"}\n',
        None,
        "line 1 is not a JSON object (only its beginning, {: write each row in one line",
    ),
    ("a.jsonl", b'[{"text": "a"}]', None, "line 1 is not an object but a list"),
    ("a.json", b"[]", None, "has no rows"),
    ("a.json", b'[{"text": "a"}', None, "']' is expected in line 1, not 'its end'"),
    ("a.json", b'[{"text": "a"},\n]', None, "Expecting value in line 2"),
    ("a.json", b'[{"text": "a"}\n{"text": "b"}]', None, "']' is expected in line 2, not '{'"),
    ("a.json", b'[\n{"text": "a"},\n{"text": "b}]', None, "Unterminated string starting at in line 3"),
    ("a.json", b'[{"text": "a"}]\n[]', None, "'[' stands behind the list in line 2"),
    ("a.json", b'[{"text": "a"}, {"text": NaN}]', None, "row 2 is not a JSON object (NaN is not a JSON number)"),
    ("a.json", b'[{"text": "a", "text": "b"}]', None, "row 1 is not a JSON object (it has the key 'text' twice)"),
    (
        "a.json",
        b'[{"text": "a"}, 7, null]',
        None,
        "row 2 is not an object but a whole number; row 3 is not an object but null",
    ),
    ("a.json", b'[{"text": "\xff"}]', None, "is not a JSON list of rows"),
    ("a.json", b"[" * 100_000, None, "nested too deeply"),
    ("a.csv", b"question,answer\na,b\n", None, "--columns prompt=question,completion=answer"),
    (
        "a.csv",
        b"q,a\nx,y\n",
        "prompt=question,completion=a",
        "line 2 has no column `question` for `prompt`, but the keys `q`, `a`",
    ),
    ("a.csv", b"q,a\nx,\n", "prompt=q,completion=a", "line 2 has an empty `completion`"),
    ("a.csv", b"t,l\nx,\n", "text=t,label=l", "line 2 has an empty `label`"),
    ("a.jsonl", b'{"t": "x", "l": null}', "text=t,label=l", "has a `label` that is null"),
    ("a.jsonl", b'{"t": "x"}', "text=t,label=l", "has no column `l` for `label`, but the keys `t`"),
    ("a.jsonl", b"{}", "text=t", "has no column `t` for `text`, but no keys"),
    ("a.jsonl", b"[]", "text=t", "is not an object but a list"),
]


@pytest.mark.parametrize(("name", "content", "columns", "said"), FILES)
def test_a_bad_file_is_refused_by_its_first_bad_line(
    name: str, content: bytes, columns: str | None, said: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InvalidData) as caught:
        check_data(path, columns=columns)
    assert said in caught.value.message


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ("", "'' is not KEY=COLUMN; write columns as prompt=question,completion=answer"),
        ("question", "'question' is not KEY=COLUMN"),
        ("prompt=", "'prompt=' is not KEY=COLUMN"),
        ("prompt=q,", "'' is not KEY=COLUMN"),
        ("question=prompt", "'question' is not a key of a row; map columns to prompt, completion"),
        ("text=a,text=b", "the key 'text' has two columns"),
        ("prompt=a,completion=a", "the column 'a' is given to two keys"),
    ],
)
def test_bad_columns_are_refused(columns: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "a"}')
    with pytest.raises(InvalidInput) as caught:
        check_data(path, columns=columns)
    assert (caught.value.param, said in caught.value.message) == ("columns", True)
