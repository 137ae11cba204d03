"""Prompts, in the form in which an engine program is asked: plain text, or the messages of a conversation.

>>> prompt_of_text("hi", is_chat=True).body, prompt_of_text("hi", is_chat=False).body
({'messages': [{'role': 'user', 'content': 'hi'}]}, {'prompt': 'hi'})
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sdk.asking.target import AskTarget
from sdk.errors import InvalidInput

Message = dict[str, Any]


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen, and when an answer ends."""

    max_new_tokens: int = 256
    #: 0: greedy.
    temperature: float = 0.0
    top_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises InvalidInput for numbers that no token can be chosen by."""
        if self.max_new_tokens < 1:
            raise InvalidInput(f"max_new_tokens can't be {self.max_new_tokens}; use 1 or more", param="max_new_tokens")
        if not 0 <= self.temperature <= 2:
            raise InvalidInput(
                f"temperature can't be {self.temperature:g}; use a number from 0 to 2 (0 is greedy)",
                param="temperature",
            )
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise InvalidInput(f"top_p can't be {self.top_p:g}; use a number above 0 and at most 1", param="top_p")
        if not all(self.stop):
            raise InvalidInput("stop has an empty text, at which every answer would end; leave it out", param="stop")

    @property
    def body(self) -> dict[str, Any]:
        """The fields of a request."""
        given = {"top_p": self.top_p, "seed": self.seed, "stop": list(self.stop) or None}
        return {
            "max_tokens": self.max_new_tokens,
            "temperature": self.temperature,
            **{name: value for name, value in given.items() if value is not None},
        }


class Prompt(NamedTuple):
    """What is asked: a text as it is, or messages that a template renders."""

    text: str | None = None
    messages: Sequence[Message] = ()
    tools: Sequence[dict[str, Any]] | None = None

    @property
    def shown(self) -> str | list[Message]:
        """The prompt as it was given."""
        return list(self.messages) if self.text is None else self.text

    @property
    def route(self) -> str:
        """The route that answers it."""
        return "/v1/completions" if self.is_plain else "/v1/chat/completions"

    @property
    def is_plain(self) -> bool:
        """Whether no template renders it."""
        return not self.messages

    @property
    def body(self) -> dict[str, Any]:
        """The fields of a request."""
        if self.is_plain:
            return {"prompt": self.text}
        # As the row has them: OpenAI's form would change the order of their keys, and so the text.
        tools = {} if self.tools is None else {"row_tools": list(self.tools)}
        return {"messages": [_sent(message) for message in self.messages], **tools}


@dataclass(frozen=True)
class PromptForm:
    """How a prompt that is one text is rendered."""

    #: True: a user's turn; False: plain; None: as the rows of the version that is asked.
    as_turn: bool | None

    @classmethod
    def of(cls, *, chat: bool, plain: bool) -> PromptForm:
        """Return what was asked for. Raises InvalidInput for both."""
        if chat and plain:
            raise InvalidInput("plain can't be combined with chat; leave out one of the two", param="plain")
        return cls(True if chat else False if plain else None)

    def prompt(self, given: str | Sequence[Message] | Prompt, target: AskTarget) -> Prompt:
        """Return what is asked of a target. Raises InvalidInput for messages as plain text, and for an empty prompt."""
        if isinstance(given, str):
            return prompt_of_text(given, is_chat=target.is_chat if self.as_turn is None else self.as_turn)
        prompt = given if isinstance(given, Prompt) else prompt_of_messages(given)
        if prompt.text is not None and prompt.is_plain:
            return self.prompt(prompt.text, target)
        if self.as_turn is False:
            raise InvalidInput("a prompt of messages is not plain text; leave out plain", param="plain")
        return prompt

    def remark(self, target: AskTarget) -> str | None:
        """What to say of how a text is rendered, if nobody has said it."""
        return target.form_remark if self.as_turn is None else None


def prompt_of_text(text: str, *, is_chat: bool) -> Prompt:
    """Return a text as a prompt. Raises InvalidInput for one that is empty or can't be sent."""
    if not text.strip():
        raise InvalidInput("the prompt is empty; give it some text", param="prompt")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidInput("the prompt is not text in UTF-8; convert it", param="prompt") from None
    return Prompt(text, [{"role": "user", "content": text}] if is_chat else ())


def prompt_of_messages(messages: Sequence[Message], tools: Sequence[dict[str, Any]] | None = None) -> Prompt:
    """Return messages as a prompt, by the rules of rows. Raises InvalidInput."""
    from sdk.formats.messages import check_messages, check_tools

    try:
        checked = check_messages("messages", list(messages), weights=True)
        found = None if tools is None else check_tools(list(tools))
    except ValueError as error:
        raise InvalidInput(f"the prompt {error}; correct it", param="prompt") from error
    return Prompt(None, checked, found)


def _sent(message: Message) -> Message:
    """Return a message of a row as OpenAI's API has it: arguments of calls are JSON texts there."""
    sent = {key: value for key, value in message.items() if key != "weight"}
    if "tool_calls" in sent:
        sent["tool_calls"] = [
            {
                "id": call.get("id", f"call{number}"),
                "type": "function",
                "function": {
                    "name": call["function"]["name"],
                    "arguments": json.dumps(call["function"]["arguments"], ensure_ascii=False),
                },
            }
            for number, call in enumerate(sent["tool_calls"])
        ]
    return sent
