"""Rows in special shapes: other programs' (Alpaca and ShareGPT), converted to the conversations that they stand for,
multiple choice, and several right answers; and files whose rows can't be read as they are.

>>> alpaca({"instruction": "Add.", "input": "1 + 1", "output": "2"})["prompt"]
[{'role': 'user', 'content': 'Add.\\n1 + 1'}]
>>> sharegpt({"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yes"}]})["messages"]
[{'role': 'user', 'content': 'hi'}, {'role': 'assistant', 'content': 'yes'}]
>>> foreign(b"PK\\x03\\x04")
'is compressed (ZIP); give the file that is in it'
>>> foreign(b'{"text": "a"}') is None
True
>>> choices({"prompt": "2 + 2 =", "choices": [" 3", " 4"], "answer": " 4"})
{'prompt': '2 + 2 =', 'choices': [' 3', ' 4'], 'answer': 1}
>>> choices({"prompt": "2 + 2 =", "choices": [" 3", " 4"], "answer": 2})
Traceback (most recent call last):
ValueError: has the `answer` 2, and its 2 choices are numbered from 0 to 1
>>> references({"prompt": "Translate: chat", "references": ["cat", "a cat"]})
{'prompt': 'Translate: chat', 'references': ['cat', 'a cat']}
>>> references({"prompt": "Translate: chat", "references": "cat"})
Traceback (most recent call last):
ValueError: has `references` that are not a list of 1 to 100 texts
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sdk.formats.messages import check_messages, check_tools, parse_json
from sdk.formats.row_bounds import EmptyField, kind_of

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


_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "ZIP",
    b"\x28\xb5\x2f\xfd": "Zstandard",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "XZ",
    b"7z\xbc\xaf\x27\x1c": "7-Zip",
}
#: Byte order marks.
_WIDE = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


def foreign(head: bytes) -> str | None:
    """Return what a file is by its first bytes, and what to do, as the rest of a sentence; None if it may have rows."""
    for begin, name in _COMPRESSED.items():
        if head.startswith(begin):
            return f"is compressed ({name}); give the file that is in it"
    for begin, name in _WIDE.items():
        if head.startswith(begin):
            return f"is in {name}; write it in UTF-8"
    if b"\0" in head and not head.startswith(b"PAR1"):
        return "is neither JSONL, CSV in UTF-8 nor Parquet (it has bytes that are not text); convert it"
    return None


#: The keys of such a row.
CHOICES = ("prompt", "choices", "answer")
#: The most choices in a row.
MOST_CHOICES = 100


def choices(
    given: Mapping[str, Any], text: Callable[[str, Any], str] = lambda name, value: str(value)
) -> dict[str, Any]:
    """Return the fields of a row, with its answer as a number from 0; `text` checks one text.

    Raises ValueError with what is wrong, as the rest of a sentence about the row.
    """
    prompt, found, answer = (given.get(key) for key in CHOICES)
    if not isinstance(found, list) or not 2 <= len(found) <= MOST_CHOICES:
        raise ValueError(f"has `choices` that are not a list of 2 to {MOST_CHOICES} texts")
    texts = [text(f"choices[{number}]", choice) for number, choice in enumerate(found)]
    if len(set(texts)) < len(texts):
        raise ValueError("has two choices that are the same")
    if answer is None:
        raise ValueError("has no `answer`; give the number of the right choice, from 0, or its text")
    if isinstance(answer, str):
        if answer not in texts:
            raise ValueError(
                f"has the `answer` {answer[:80]!r}, which is none of its choices; write it exactly as there"
            )
        answer = texts.index(answer)
    if type(answer) is not int:
        raise ValueError(f"has an `answer` that is neither a number nor a text but {kind_of(answer)}")
    if not 0 <= answer < len(texts):
        raise ValueError(
            f"has the `answer` {answer}, and its {len(texts)} choices are numbered from 0 to {len(texts) - 1}"
        )
    return {"prompt": text("prompt", prompt), "choices": texts, "answer": answer}


#: The keys of such a row.
REFERENCES = ("prompt", "references", "tools")
#: The most references of a row.
MOST_REFERENCES = 100


def references(
    given: Mapping[str, Any], text: Callable[[str, Any], str] = lambda name, value: str(value)
) -> dict[str, Any]:
    """Return the fields of a row; its prompt is a text or a list of messages, which may have tools. `text` checks one text.

    Raises ValueError with what is wrong, as the rest of a sentence about the row.
    """
    prompt, found = given.get("prompt"), given.get("references")
    if not isinstance(found, list) or not 1 <= len(found) <= MOST_REFERENCES:
        raise ValueError(f"has `references` that are not a list of 1 to {MOST_REFERENCES} texts")
    texts = [text(f"references[{number}]", reference) for number, reference in enumerate(found)]
    if not isinstance(prompt, list):
        if "tools" in given:
            raise ValueError("has `tools` for a prompt that is a text; write the prompt as a list of messages")
        return {"prompt": text("prompt", prompt), "references": texts}
    tools = {"tools": check_tools(given["tools"])} if "tools" in given else {}
    return {"prompt": check_messages("prompt", prompt, weights=False), "references": texts, **tools}
