"""A plain completion as a chat's answer: what an engine answers for a chat that was sent to it as tokens.

>>> chat_answer({"id": "x", "object": "text_completion", "created": 1, "model": "m", "choices": [{"text": "Hi", "finish_reason": "stop"}]})
{'id': 'x', 'object': 'chat.completion', 'created': 1, 'model': 'm', 'choices': [{'index': 0, 'message': {'role': 'assistant', \
'content': 'Hi'}, 'logprobs': None, 'finish_reason': 'stop'}]}
"""

from __future__ import annotations

import json
from typing import Any

from sdk.gateway.door.streams import BrokenAnswerError, LineBuffer, event

_KEPT = ("id", "created", "model", "usage", "error")


def chat_answer(document: dict[str, Any]) -> dict[str, Any]:
    """Return a whole answer."""
    choices = [
        {
            "index": 0,
            "message": {"role": "assistant", "content": choice.get("text", "")},
            "logprobs": _logprobs(choice.get("logprobs")),
            "finish_reason": choice.get("finish_reason"),
        }
        for choice in document.get("choices", ())
    ]
    return _as("chat.completion", document, choices)


class ChatLines:
    """The lines of a stream, each as soon as it is whole, as those of a chat's."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._lines = LineBuffer()
        self._has_begun = False

    def feed(self, piece: bytes) -> bytes:
        """Return what is whole now. Raises BrokenAnswerError."""
        return b"".join(self._converted(line) for line in self._lines.feed(piece).splitlines())

    def rest(self) -> bytes:
        """Return a last line without an end."""
        return b"".join(self._converted(line) for line in self._lines.rest().splitlines())

    def _converted(self, line: bytes) -> bytes:
        data = line.removeprefix(b"data:").strip()
        if not line.startswith(b"data:") or not data:
            # An empty line ends an event, and is written with it.
            return b""
        if data == b"[DONE]":
            return b"data: [DONE]\n\n"
        try:
            document = json.loads(data)
            choices = [self._choice(choice) for choice in document.get("choices", ())]
        except (ValueError, AttributeError, RecursionError) as error:
            raise BrokenAnswerError("a line of it is not an object") from error
        return event(_as("chat.completion.chunk", document | {"model": self._model}, choices))

    def _choice(self, choice: dict[str, Any]) -> dict[str, Any]:
        role = {} if self._has_begun else {"role": "assistant"}
        self._has_begun = True
        return {
            "index": 0,
            "delta": {**role, "content": choice.get("text", "")},
            "logprobs": _logprobs(choice.get("logprobs")),
            "finish_reason": choice.get("finish_reason"),
        }


def _as(kind: str, document: dict[str, Any], choices: list[dict[str, Any]]) -> dict[str, Any]:
    kept = {key: document[key] for key in _KEPT if key in document}
    return {"id": kept.pop("id", ""), "object": kind, **kept, "choices": choices}


def _logprobs(found: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the log-probabilities of tokens as a chat has them."""
    if not found or not isinstance(found.get("tokens"), list):
        # Some engines have the same form for both.
        return found or None
    tops = found.get("top_logprobs") or [None] * len(found["tokens"])
    content = [
        _token(token, logprob) | {"top_logprobs": [_token(*pair) for pair in (top or {}).items()]}
        for token, logprob, top in zip(found["tokens"], found["token_logprobs"], tops, strict=False)
    ]
    return {"content": content}


def _token(token: str, logprob: float | None) -> dict[str, Any]:
    return {"token": token, "logprob": logprob, "bytes": list(token.encode("utf-8", "replace"))}
