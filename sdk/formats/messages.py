"""Conversations in a row: messages and tools, made uniform; anything that templates can't be given is refused by name.

The result has one form, whatever the input's form: contents that were lists of text parts become texts, arguments that
were JSON texts become objects, and keys with null are left out.

>>> check_messages("messages", [{"role": "user", "content": [{"type": "text", "text": "hi"}], "name": None}])
[{'role': 'user', 'content': 'hi'}]
>>> check_messages("messages", [{"role": "user", "content": "hi", "mood": "good"}])
Traceback (most recent call last):
ValueError: has a key `mood` in message 1 of `messages`, which would be lost
"""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any, NoReturn

from sdk.formats.row_bounds import EmptyField, kind_of

ROLES = frozenset({"system", "user", "assistant", "tool", "developer"})
#: Keys for reasoning; templates are given the first.
REASONING = ("reasoning_content", "thinking", "reasoning")

_FOR_ALL = frozenset({"role", "content", "name"})
_BY_ROLE = {
    "assistant": _FOR_ALL | {"tool_calls", "weight", *REASONING},
    "tool": _FOR_ALL | {"tool_call_id"},
}
_CALL_KEYS = frozenset({"id", "type", "function", "index"})
_FUNCTION_KEYS = frozenset({"name", "arguments"})


def check_messages(key: str, value: Any, *, weights: bool = True) -> list[dict[str, Any]]:
    """Return the messages that a row has under `key`, made uniform.

    With `weights` an answer may have a weight of 0 or 1. Raises ValueError with what is wrong, as the rest of a sentence
    about the row.
    """
    value = _decoded(key, value)
    if not isinstance(value, list) or not value:
        fault = EmptyField if value == [] else ValueError
        raise fault(f"has `{key}` that is not a list of messages, or is empty")
    return [
        _message(f"message {position} of `{key}`", message, weights) for position, message in enumerate(value, start=1)
    ]


def check_tools(value: Any) -> list[dict[str, Any]]:
    """Return the tools of a row, JSON schemas of functions. Raises ValueError with what is wrong."""
    value = _decoded("tools", value)
    if not isinstance(value, list) or not value:
        raise ValueError("has `tools` that is not a list of functions, or is empty")
    for position, tool in enumerate(value, start=1):
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"].strip():
            raise ValueError(f"has a tool {position} in `tools` without a `name`")
        _require_json(f"tool {position} of `tools`", tool)
    found: list[dict[str, Any]] = value
    return found


def without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object. Raises ValueError for a key that occurs twice: a reader would keep only the last one."""
    found = dict(pairs)
    if len(found) != len(pairs):
        times = Counter(key for key, _ in pairs)
        raise ValueError(f"it has the key {next(key for key, count in times.items() if count > 1)[:80]!a} twice")
    return found


def no_number(name: str) -> NoReturn:
    """Refuse NaN and infinities, which JSON can't represent. Raises ValueError."""
    raise ValueError(f"{name} is not a JSON number")


def parse_json(text: str) -> Any:
    """Return the value of a JSON text, refusing anything that a reader would lose. Raises ValueError, RecursionError."""
    return _DECODER.decode(text)


def json_decoder() -> json.JSONDecoder:
    """Return a decoder for texts that begin with a value, with the rules of `parse_json`."""
    return json.JSONDecoder(**_LOSSLESS)


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        no_number(text[:80])
    return number


_LOSSLESS: dict[str, Any] = {
    "object_pairs_hook": without_repeats,
    "parse_constant": no_number,
    "parse_float": _finite,
}
_DECODER = json.JSONDecoder(**_LOSSLESS)


def _decoded(key: str, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    # CSV has no lists, so a column has the list as JSON.
    try:
        return parse_json(value)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"has `{key}` that is not a JSON list") from error


def _message(where: str, message: Any, weights: bool) -> dict[str, Any]:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str) or message["role"] not in ROLES:
        raise ValueError(f"has a {where} without a role of {', '.join(sorted(ROLES))}")
    role = message["role"]
    # Exporters write all keys into each message; leaving out an empty one loses nothing.
    given = {
        key: value
        for key, value in message.items()
        if value is not None and (key == "content" or not (isinstance(value, str | list) and not value))
    }
    for key in given:
        if key not in _BY_ROLE.get(role, _FOR_ALL):
            if key in _BY_ROLE["assistant"] | _BY_ROLE["tool"]:
                raise ValueError(f"has a key `{key}` in {where}, whose role {role} doesn't use it")
            raise ValueError(f"has a key `{key[:80]}` in {where}, which would be lost")
    _require_json(where, given)
    found: dict[str, Any] = {"role": role}
    if "content" in given:
        found["content"] = _content(where, given["content"])
    for key in ("name", "tool_call_id"):
        if key in given:
            found[key] = _nonempty(where, key, given[key])
    if reasoning := _reasoning(where, given):
        found["reasoning_content"] = reasoning
    if given.get("tool_calls"):
        found["tool_calls"] = _calls(where, given["tool_calls"])
    if "weight" in given:
        found["weight"] = _weight(where, given["weight"], weights)
    _require_something(where, found)
    return found


def _require_something(where: str, message: dict[str, Any]) -> None:
    calls = "tool_calls" in message
    if "content" not in message and not calls:
        raise ValueError(f"has a {where} without a text as `content`")
    learnt = message["role"] == "assistant" and message.get("weight") != 0
    if learnt and not calls and not message["content"].strip():
        raise EmptyField(f"has an empty `content` in {where}, which would teach the model to say nothing")


def _content(where: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise ValueError(f"has a {where} without a text as `content`")
    texts = []
    for part in value:
        given = {key: found for key, found in part.items() if found is not None} if isinstance(part, dict) else {}
        if given.keys() != {"type", "text"} or given["type"] != "text" or not isinstance(given["text"], str):
            kind = given["type"] if isinstance(given.get("type"), str) else type(part).__name__
            raise ValueError(f"has a part of `content` in {where} that is not plain text but {kind[:80]!a}")
        texts.append(given["text"])
    return "".join(texts)


def _reasoning(where: str, given: dict[str, Any]) -> str | None:
    said = {key: given[key] for key in REASONING if key in given}
    if not said:
        return None
    if len(said) > 1:
        raise ValueError(f"has {' and '.join(f'`{key}`' for key in said)} in {where}, one of which would be lost")
    ((key, value),) = said.items()
    if not isinstance(value, str):
        raise ValueError(f"has a `{key}` in {where} that is not text but {kind_of(value)}")
    return value if value.strip() else None


def _calls(where: str, value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        raise ValueError(f"has `tool_calls` in {where} that are not a list")
    return [_call(f"tool call {position} of {where}", call) for position, call in enumerate(value, start=1)]


def _call(where: str, call: Any) -> dict[str, Any]:
    if not isinstance(call, dict):
        raise ValueError(f"has a {where} that is not an object but {kind_of(call)}")
    given = {key: value for key, value in call.items() if value is not None}
    if "function" not in given and "name" in given:
        # The short form: the function itself.
        outer = {key: value for key, value in given.items() if key not in _FUNCTION_KEYS}
        given = {**outer, "function": {key: value for key, value in given.items() if key in _FUNCTION_KEYS}}
    _only(where, given, _CALL_KEYS)
    if given.get("type", "function") != "function":
        raise ValueError(f"has a {where} whose type is not function")
    function = given.get("function")
    if not isinstance(function, dict):
        raise ValueError(f"has a {where} without a `function`")
    function = {key: value for key, value in function.items() if value is not None}
    _only(where, function, _FUNCTION_KEYS)
    name = _nonempty(where, "name", function.get("name"))
    found: dict[str, Any] = {"type": "function", "function": {"name": name, "arguments": _arguments(where, function)}}
    if "id" in given:
        found["id"] = _nonempty(where, "id", given["id"])
    return found


def _arguments(where: str, function: dict[str, Any]) -> dict[str, Any]:
    value = function.get("arguments", {})
    if isinstance(value, str):
        try:
            value = parse_json(value) if value.strip() else {}
        except (ValueError, RecursionError):
            value = None
    if not isinstance(value, dict):
        raise ValueError(f"has `arguments` in {where} that are not a JSON object")
    # As a JSON text they were checked while parsing.
    _require_json(where, value)
    return value


def _weight(where: str, value: Any, weights: bool) -> int:
    if isinstance(value, bool) or value not in (0, 1):
        raise ValueError(f"has a `weight` in {where} that is neither 0 nor 1")
    if value and not weights:
        raise ValueError(f"has a `weight` of 1 in {where}, which is never learnt; move it into `completion`")
    return int(value)


def _nonempty(where: str, key: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"has no text as `{key}` in {where}")
    return value


def _only(where: str, given: dict[str, Any], known: frozenset[str]) -> None:
    for key in given:
        if key not in known:
            raise ValueError(f"has a key `{key[:80]}` in {where}, which would be lost")


def _require_json(where: str, value: Any) -> None:
    """Refuse what JSON can't represent: half a surrogate pair, NaN, and Parquet's dates and bytes."""
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"has half a surrogate pair in {where}") from error
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"has a value in {where} that JSON can't express") from error
