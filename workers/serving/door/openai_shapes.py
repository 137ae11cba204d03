"""Answers in the form in which OpenAI's clients read them, whole and in chunks."""

from __future__ import annotations

import codecs
import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from workers.serving.decoding.requests import Token
from workers.serving.texts.texts import TextVocabulary

Finish = Literal["stop", "length"]
#: What ends a stream.
DONE = b"data: [DONE]\n\n"


def event(value: dict[str, Any]) -> bytes:
    """Return one event of a stream."""
    return b"data: " + as_json(value) + b"\n\n"


def as_json(value: dict[str, Any]) -> bytes:
    """Return an object as compact JSON in UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


@dataclass(frozen=True)
class TokenUsage:
    """How many tokens a request took."""

    prompt_tokens: int
    completion_tokens: int

    def as_object(self) -> dict[str, int]:
        """Return it in OpenAI's form."""
        total = self.prompt_tokens + self.completion_tokens
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": total,
        }


@dataclass
class ChatShape:
    """Answers of `/v1/chat/completions`."""

    model: str
    vocabulary: TextVocabulary
    #: Whether the content's tokens are shown with their log-probabilities.
    logprobs: bool
    #: Whether a stream ends with the usage.
    include_usage: bool = False
    ident: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))

    def first(self) -> dict[str, Any]:
        """Return the chunk that begins a stream."""
        return self._chunk({"role": "assistant", "content": ""}, None, None)

    def chunk(self, content: str, reasoning: str, tokens: Sequence[Token]) -> dict[str, Any]:
        """Return a chunk with what is new."""
        delta = {"reasoning_content": reasoning} if reasoning else {}
        if content or not reasoning:
            delta["content"] = content
        return self._chunk(delta, self._logprobs(tokens), None)

    def last(self, finish: Finish) -> dict[str, Any]:
        """Return the chunk that says why the answer ended."""
        return self._chunk({}, None, finish)

    def usage(self, usage: TokenUsage) -> dict[str, Any]:
        """Return the chunk with the usage."""
        return {**self._head("chat.completion.chunk"), "choices": [], "usage": usage.as_object()}

    def whole(
        self, content: str, reasoning: str, tokens: Sequence[Token], finish: Finish, usage: TokenUsage
    ) -> dict[str, Any]:
        """Return a whole answer."""
        message = {"role": "assistant", "content": content, **({"reasoning_content": reasoning} if reasoning else {})}
        choice = {"index": 0, "message": message, "logprobs": self._logprobs(tokens), "finish_reason": finish}
        return {**self._head("chat.completion"), "choices": [choice], "usage": usage.as_object()}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.ident, "object": kind, "created": self.created, "model": self.model}

    def _chunk(self, delta: dict[str, str], logprobs: dict[str, Any] | None, finish: Finish | None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        usage: dict[str, Any] = {"usage": None} if self.include_usage else {}
        return {**self._head("chat.completion.chunk"), "choices": [choice], **usage}

    def _logprobs(self, tokens: Sequence[Token]) -> dict[str, Any] | None:
        if not self.logprobs or not tokens:
            return None
        content = [
            {
                **self._entry(token.id, token.logprob),
                "top_logprobs": [self._entry(ident, logprob) for ident, logprob in token.top],
            }
            for token in tokens
        ]
        return {"content": content, "refusal": None}

    def _entry(self, token: int, logprob: float | None) -> dict[str, Any]:
        written = self.vocabulary.bytes_of(token)
        return {"token": written.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(written)}


@dataclass
class CompletionShape:
    """Answers of `/v1/completions`."""

    model: str
    vocabulary: TextVocabulary
    logprobs: bool
    include_usage: bool = False
    ident: str = field(default_factory=lambda: f"cmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))
    #: How many characters the tokens shown so far have.
    _offset: int = 0
    _decoder: Any = field(default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace"))

    def first(self) -> None:
        """A stream begins with its first text."""
        return

    def chunk(self, content: str, reasoning: str, tokens: Sequence[Token]) -> dict[str, Any]:
        """Return a chunk with what is new; there is no reasoning."""
        return self._of(content + reasoning, tokens, None)

    def last(self, finish: Finish) -> dict[str, Any]:
        """Return the chunk that says why the answer ended."""
        return self._of("", (), finish)

    def usage(self, usage: TokenUsage) -> dict[str, Any]:
        """Return the chunk with the usage."""
        return {**self._head(), "choices": [], "usage": usage.as_object()}

    def whole(
        self, content: str, reasoning: str, tokens: Sequence[Token], finish: Finish, usage: TokenUsage
    ) -> dict[str, Any]:
        """Return a whole answer."""
        return {**self._of(content + reasoning, tokens, finish), "usage": usage.as_object()}

    def _head(self) -> dict[str, Any]:
        return {"id": self.ident, "object": "text_completion", "created": self.created, "model": self.model}

    def _of(self, text: str, tokens: Sequence[Token], finish: Finish | None) -> dict[str, Any]:
        choice = {"index": 0, "text": text, "logprobs": self._logprobs(tokens), "finish_reason": finish}
        usage: dict[str, Any] = {"usage": None} if self.include_usage else {}
        return {**self._head(), "choices": [choice], **usage}

    def _logprobs(self, tokens: Sequence[Token]) -> dict[str, Any] | None:
        if not self.logprobs or not tokens:
            return None
        offsets = []
        for token in tokens:
            offsets.append(self._offset)
            self._offset += len(self._decoder.decode(self.vocabulary.bytes_of(token.id)))
        return {
            "tokens": [self._name(token.id) for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [
                None if token.logprob is None else {self._name(ident): logprob for ident, logprob in token.top}
                for token in tokens
            ],
            "text_offset": offsets,
        }

    def _name(self, token: int) -> str:
        """Return a token's text; that of bytes which are not text as OpenAI writes them."""
        written = self.vocabulary.bytes_of(token)
        try:
            return written.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in written)
