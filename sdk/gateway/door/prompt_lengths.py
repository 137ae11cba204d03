"""Prompts that are far too long for the context, refused before an engine makes tokens of all of them: llama.cpp takes seconds for 2 MB,
of a processor that others wait for.
"""

from __future__ import annotations

import asyncio
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from sdk.gateway.door.refusals import Declined
from sdk.gateway.door.requests import ChatBody
from sdk.schemas.completions import CompletionRequest

if TYPE_CHECKING:
    from tokenizers import Tokenizer

#: Of a text with more characters for each token of the context, the beginning becomes tokens here.
_HEAD_CHARACTERS = 16


class PromptLengths:
    """How long prompts may be for one base; without its files, engines decide alone."""

    def __init__(self, base: Path | None, context_tokens: int) -> None:
        self._base, self._context_tokens = base, context_tokens

    async def require_room(self, request: ChatBody | CompletionRequest) -> None:
        """Raise Declined for a prompt with far more tokens than the context."""
        most = self._context_tokens
        text = _text(request)
        # A thread isn't free, and nearly all prompts are short.
        if len(text) > _HEAD_CHARACTERS * most and await asyncio.to_thread(self._is_far_too_long, text):
            param = "messages" if isinstance(request, ChatBody) else "prompt"
            raise Declined(
                400,
                "invalid",
                f"the prompt has more than {2 * most:,} tokens, and the engine takes {most:,} with the answer; shorten the prompt",
                param=param,
            )

    def _is_far_too_long(self, text: str) -> bool:
        if self._tokenizer is None:
            return False
        head = _HEAD_CHARACTERS * self._context_tokens
        while head < len(text):
            # Where a text is cut, its tokens are others, but not half of them.
            (encoded,) = self._tokenizer.encode_batch_fast([text[:head]], add_special_tokens=False)
            if len(encoded.ids) > 2 * self._context_tokens:
                return True
            head *= 4
        return False

    @cached_property
    def _tokenizer(self) -> Tokenizer | None:
        from tokenizers import Tokenizer

        if self._base is None:
            return None
        try:
            return Tokenizer.from_file(str(self._base / "tokenizer.json"))
        except Exception:  # noqa: BLE001 - the library raises Exception itself; without it, the engine says what is too long
            return None


def _text(request: ChatBody | CompletionRequest) -> str:
    """Return what is surely in the prompt: templates leave out thoughts of earlier answers."""
    if isinstance(request, CompletionRequest):
        return request.prompt if isinstance(request.prompt, str) else ""
    contents = [message.content for message in request.messages if message.role != "assistant"]
    texts = [[each] if isinstance(each, str) else [part.text for part in each or ()] for each in contents]
    return "\n".join(text for each in texts for text in each)
