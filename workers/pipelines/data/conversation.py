"""A conversation in the forms that templates want, and which parts of it a template loses."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

#: Letters before and after a number: no template changes such a word, or writes one by itself.
_PROBE = "zq{}v{}z"

_TOOLS = "tools"


class RowRefused(ValueError):  # noqa: N818 - it reads as what happened
    """A row can't be trained on; the message is the rest of a sentence that begins with the row's place."""


@dataclass(frozen=True)
class Conversation:
    """The messages of a row as `sdk.formats.messages` makes them, and on which of them the loss is computed."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None
    #: Indices of answers, sorted.
    learnt: tuple[int, ...]

    def until(self, answer: int) -> Conversation:
        """Return the conversation that ends with one answer, the only one that is learnt."""
        return replace(self, messages=self.messages[: answer + 1], learnt=(answer,))


@dataclass(frozen=True)
class Form:
    """How messages are passed to a template: templates differ in what they can read."""

    #: Contents as lists of parts, as multimodal templates want them.
    parts: bool = False
    #: A tool call without a content: its key is left out, or it is None or "".
    empty: str | None = "absent"
    #: Arguments as a JSON text, as in OpenAI's API.
    arguments_as_text: bool = False

    def message(self, message: dict[str, Any]) -> dict[str, Any]:
        """Return a message for a template, without the weight."""
        found = {key: value for key, value in message.items() if key != "weight"}
        if _calls_alone(message):
            found.pop("content", None)
            if self.empty != "absent":
                found["content"] = _parts("") if self.parts and self.empty == "" else self.empty
        elif self.parts:
            found["content"] = _parts(message["content"])
        if self.arguments_as_text and "tool_calls" in message:
            found["tool_calls"] = [_with_text(call) for call in message["tool_calls"]]
        return found


def forms(conversation: Conversation) -> Iterator[Form]:
    """Yield the forms that a template may want, the usual one first."""
    empty = any(_calls_alone(message) for message in conversation.messages)
    calls = any("tool_calls" in message for message in conversation.messages)
    for parts, nothing, as_text in itertools.product(
        (False, True), ("absent", None, "") if empty else ("absent",), (False, True) if calls else (False,)
    ):
        yield Form(parts, nothing, as_text)


def _parts(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text}]


def _calls_alone(message: dict[str, Any]) -> bool:
    return "tool_calls" in message and not message.get("content", "").strip()


def _with_text(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    text = json.dumps(function["arguments"], ensure_ascii=False)
    return {**call, "function": {**function, "arguments": text}}


@dataclass(frozen=True)
class Probed:
    """A conversation of the same form with a marker word in each of its texts, to find them again."""

    conversation: Conversation
    #: Word to (index of the message, or None for the tools; key).
    words: dict[str, tuple[int | None, str]]

    def lost(self, text: str) -> list[str]:
        """Return the names of the parts that the rendered probe lacks: "`content` of message 2".

        The reasoning of an answer that is not learnt may be missing: templates leave it out of earlier turns.
        """
        named: dict[str, None] = {}
        for word, (index, key) in self.words.items():
            if word in text or (key == "reasoning_content" and index not in self.conversation.learnt):
                continue
            named[f"`{key}`" if index is None else f"`{key}` of message {index + 1}"] = None
        return list(named)

    def messages_in(self, text: str) -> set[int]:
        """Return the indices of the messages that a part of the rendered probe contains something of."""
        return {index for word, (index, _) in self.words.items() if index is not None and word in text}


def probe(conversation: Conversation) -> Probed:
    """Put a unique word into each text of a conversation that has to be rendered.

    Names that only link a tool's answer to its call stay as they are, since templates may leave them out: `id`,
    `tool_call_id`, and the `name` of a tool's answer.
    """
    words: dict[str, tuple[int | None, str]] = {}

    def word(index: int | None, key: str) -> str:
        made = _PROBE.format("t" if index is None else index, len(words))
        words[made] = (index, key)
        return made

    messages = []
    for index, message in enumerate(conversation.messages):
        changed = dict(message)
        for key in ("content", "reasoning_content"):
            if message.get(key, "").strip():
                changed[key] = _between_words(message[key], word(index, key), word(index, key))
        if "name" in message and message["role"] != "tool":
            changed["name"] = message["name"] + word(index, "name")
        if "tool_calls" in message:
            changed["tool_calls"] = [
                {
                    **call,
                    "function": {
                        "name": call["function"]["name"] + word(index, "tool_calls"),
                        "arguments": {
                            **call["function"]["arguments"],
                            word(index, "tool_calls"): word(index, "tool_calls"),
                        },
                    },
                }
                for call in message["tool_calls"]
            ]
        messages.append(changed)
    tools = conversation.tools
    if tools is not None:
        tools = [_probed_tool(tool, lambda: word(None, _TOOLS)) for tool in tools]
    return Probed(replace(conversation, messages=messages, tools=tools), words)


def _between_words(text: str, first: str, last: str) -> str:
    """Return a text with a word at its beginning and one at its end; the part in `<think>` marks stays as it is."""
    thought, mark, said = text.rpartition("</think>")
    begins = len(said) - len(said.lstrip())
    return f"{thought}{mark}{said[:begins]}{first}{said[begins:]}{last}"


def _probed_tool(tool: dict[str, Any], word: Any) -> dict[str, Any]:
    function = dict(tool.get("function", tool))
    function["name"] = function["name"] + word()
    if isinstance(function.get("description"), str) and function["description"].strip():
        function["description"] = function["description"] + word()
    parameters = function.get("parameters")
    if isinstance(parameters, dict) and isinstance(parameters.get("properties"), dict):
        properties = {name + word(): _probed_schema(schema, word) for name, schema in parameters["properties"].items()}
        function["parameters"] = {**parameters, "properties": properties}
    return {**tool, "function": function} if "function" in tool else function


def _probed_schema(schema: Any, word: Any) -> Any:
    """Return the schema of one parameter with a word in its description."""
    if isinstance(schema, dict) and isinstance(schema.get("description"), str) and schema["description"].strip():
        return {**schema, "description": schema["description"] + word()}
    return schema


def missing_from(message: dict[str, Any], rendered: str) -> str | None:
    """Return the key of an answer whose text is missing from the rendered answer; None if all are there.

    Templates trim contents, and wrap reasoning that is written into one in their own way.
    """
    contents = re.split(r"</?think>", message.get("content", ""))
    if not all(part.strip() in rendered for part in contents):
        return "content"
    if message.get("reasoning_content", "").strip() not in rendered:
        return "reasoning_content"
    for call in message.get("tool_calls", ()):
        texts = [call["function"]["name"], *_texts(call["function"]["arguments"])]
        if not all(_stands_in(text, rendered) for text in texts):
            return "tool_calls"
    return None


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from itertools.chain.from_iterable((key, *_texts(inner)) for key, inner in value.items())
    elif isinstance(value, Sequence):
        yield from itertools.chain.from_iterable(map(_texts, value))


def _stands_in(text: str, rendered: str) -> bool:
    """Whether a text occurs as it is, or as JSON or Python write it."""
    ways = (text, json.dumps(text, ensure_ascii=False)[1:-1], json.dumps(text)[1:-1], repr(text)[1:-1])
    return any(way in rendered for way in ways)
