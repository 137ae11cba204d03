"""Rows in other programs' shapes, Alpaca and ShareGPT, converted to the conversations that they stand for.

>>> alpaca({"instruction": "Add.", "input": "1 + 1", "output": "2"})["prompt"]
[{'role': 'user', 'content': 'Add.\\n1 + 1'}]
>>> sharegpt({"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yes"}]})["messages"]
[{'role': 'user', 'content': 'hi'}, {'role': 'assistant', 'content': 'yes'}]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sdk.formats.messages import check_messages, check_tools, parse_json
from sdk.formats.row_faults import EmptyField, kind_of

ALPACA = ("instruction", "input", "output", "system")
SHAREGPT = ("conversations", "system", "tools")

#: The values of `from`, and the role that each means. A call is made from the JSON in its value.
_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "function_call": "assistant",
    "observation": "tool",
    "tool": "tool",
}


def alpaca(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return prompt and completion: the prompt is the instruction, with the input, if any, below it.

    Raises ValueError with what is wrong, as the rest of a sentence about the row.
    """
    asked = _text(given, "instruction")
    below = given.get("input", "")
    if not isinstance(below, str):
        raise ValueError(f"has an `input` that is not text but {kind_of(below)}")
    prompt = [*_system(given), {"role": "user", "content": f"{asked}\n{below}" if below.strip() else asked}]
    answer = [{"role": "assistant", "content": _text(given, "output")}]
    return {"prompt": check_messages("prompt", prompt), "completion": check_messages("completion", answer)}


def sharegpt(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return messages, and tools if there are any. Raises ValueError with what is wrong."""
    turns = given["conversations"]
    if isinstance(turns, str):
        turns = _json("conversations", turns)
    if not isinstance(turns, list) or not turns:
        raise ValueError("has `conversations` that is not a list of messages, or is empty")
    messages = [*_system(given), *(_message(number, turn) for number, turn in enumerate(turns, start=1))]
    tools = {"tools": check_tools(given["tools"])} if given.get("tools") else {}
    return {"messages": check_messages("conversations", messages), **tools}


def _system(given: Mapping[str, Any]) -> list[dict[str, Any]]:
    said = given.get("system", "")
    if not isinstance(said, str):
        raise ValueError(f"has a `system` that is not text but {kind_of(said)}")
    return [{"role": "system", "content": said}] if said.strip() else []


def _message(number: int, turn: Any) -> dict[str, Any]:
    where = f"message {number} of `conversations`"
    if isinstance(turn, dict) and "role" in turn and "from" not in turn:
        raise ValueError(
            f"has a {where} with `role` and no `from`; give them as messages: --columns messages=conversations"
        )
    speaker = turn.get("from") if isinstance(turn, dict) else None
    if not isinstance(speaker, str) or speaker not in _ROLES:
        raise ValueError(f"has a {where} without a `from` of {', '.join(sorted(_ROLES))}")
    if lost := [key for key in turn if key not in ("from", "value", "weight") and turn[key] is not None]:
        raise ValueError(f"has a key `{str(lost[0])[:80]}` in {where}, which would be lost")
    value = turn.get("value")
    message: dict[str, Any] = {"role": _ROLES[speaker], "content": value}
    if speaker == "function_call":
        message = {"role": "assistant", "tool_calls": _calls(where, value)}
    return message if turn.get("weight") is None else {**message, "weight": turn["weight"]}


def _calls(where: str, value: Any) -> list[dict[str, Any]]:
    said = _json(where, value) if isinstance(value, str) else value
    return [{"type": "function", "function": call} for call in (said if isinstance(said, list) else [said])]


def _json(where: str, text: str) -> Any:
    try:
        return parse_json(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"has a {where} that is not JSON") from error


def _text(given: Mapping[str, Any], key: str) -> str:
    value = given.get(key)
    if value is None:
        raise EmptyField(f"has no `{key}`")
    if not isinstance(value, str):
        raise ValueError(f"has a `{key}` that is not text but {kind_of(value)}")
    if not value.strip():
        raise EmptyField(f"has an empty `{key}`")
    return value
