"""A base, its versions by name, and questions to them: what the routes call."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, Protocol, TypeVar

from sdk.formats.messages import check_messages, check_tools
from sdk.schemas.completions import ChatMessage
from workers.pipelines.data.thoughts import Thoughts
from workers.pipelines.errors import PipelineError
from workers.serving.decoding import errors
from workers.serving.decoding.requests import DecodeQuestion, Ended, OnPiece, ServedPlacement, Token
from workers.serving.door.bodies import EngineChat, EngineCompletion, LoadBody, stop_texts
from workers.serving.door.refusals import RequestRefused
from workers.serving.texts.answers import AnswerStream
from workers.serving.texts.prompts import PromptRenderers, RenderingBusy, RenderingRefused
from workers.serving.texts.versions import TextsOfBase, TextsOfVersion

#: What requests call the bare base.
BASE_NAME = "base"
#: The tokens of a completion if none are asked for, as OpenAI has it.
_COMPLETION_TOKENS = 16
#: Of a text with more characters for each token of the context, its beginning becomes tokens first.
_HEAD_CHARACTERS = 16

T = TypeVar("T")


class RunningQuestion(Protocol):
    """A question that the decode loop has accepted."""

    def cancel(self) -> None:
        """End it, within a step."""


class QuestionLoop(Protocol):
    """The decode loop."""

    @property
    def running(self) -> int:
        """How many questions are in work."""

    @property
    def queued(self) -> int:
        """How many wait."""

    def load(self, name: str, folder: Path) -> ServedPlacement:
        """Make a version answer under its name."""

    def release(self, name: str) -> None:
        """Forget a version."""

    def submit(self, question: DecodeQuestion, on_piece: OnPiece) -> RunningQuestion:
        """Have a question answered."""

    def close(self) -> None:
        """Cancel what runs, and end."""


@dataclass(frozen=True)
class LoadedVersion:
    """A version that answers."""

    name: str
    folder: Path
    placement: ServedPlacement
    texts: TextsOfVersion


@dataclass(frozen=True)
class PreparedRequest:
    """A request as the decode loop is asked it, and how its answer is read."""

    question: DecodeQuestion
    texts: TextsOfVersion
    #: The model as it was named.
    model: str
    stops: Sequence[str]
    #: None: all of the answer is content.
    thoughts: Thoughts | None
    within: bool
    raw: bool
    #: The prompt's text, if it comes back before the answer.
    echo: str | None = None
    logprobs: bool = False

    def answer(self) -> AnswerStream:
        """Return what reads the answer."""
        return AnswerStream(
            self.texts.vocabulary, stops=self.stops, thoughts=self.thoughts, within=self.within, raw=self.raw
        )


@dataclass
class ServedEngine:
    """What an engine program serves."""

    base: Path
    loop: QuestionLoop
    texts: TextsOfBase
    renderer: PromptRenderers
    context_tokens: int
    versions: dict[str, LoadedVersion] = field(default_factory=dict)
    #: Makes tokens, which all requests need; and loads.
    _encoding: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "encoding"))
    _loading: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "loading"))

    def close(self) -> None:
        """End the decode loop, the threads, and the renderer."""
        self.loop.close()
        self.renderer.close()
        for pool in (self._encoding, self._loading):
            pool.shutdown(wait=False, cancel_futures=True)

    async def load(self, body: LoadBody) -> ServedPlacement:
        """Make a version answer under its name; done already is fine. Raises RequestRefused; then nothing of it stays."""
        return await _in(self._loading, lambda: self._load(body))

    def _load(self, body: LoadBody) -> ServedPlacement:
        folder = Path(body.folder)
        if body.name == BASE_NAME:
            raise RequestRefused(
                409, "name_taken", "`base` is the base itself; load the version as NAME@vN", param="name"
            )
        if not folder.is_dir():
            raise RequestRefused(422, "refused", "there is no such folder here; pull the version again", param="folder")
        known = self.versions.get(body.name)
        if known is not None and known.folder != folder:
            raise RequestRefused(
                409, "name_taken", "this name is loaded from another folder; release it first", param="name"
            )
        try:
            day = None if body.day is None else date.fromisoformat(body.day)
            # The small files first: a refusal leaves nothing in the loop.
            texts = self.texts.of(folder, day=day, stop_ids=body.stop_ids, template=body.template)
            placement = self.loop.load(body.name, folder)
        except PipelineError as error:
            raise RequestRefused(422, "refused", error.message, param="folder") from error
        except errors.NameTaken as error:
            raise RequestRefused(409, "name_taken", str(error), param="name") from error
        except (errors.AdapterRefused, errors.BaseRefused) as error:
            raise RequestRefused(422, "refused", str(error), param="folder") from error
        except errors.ServingError as error:
            raise RequestRefused(503, "unavailable", str(error)) from error
        self.versions[body.name] = LoadedVersion(body.name, folder, placement, texts)
        return placement

    async def release(self, name: str) -> None:
        """Forget a version; one that isn't loaded is fine."""

        def release() -> None:
            if self.versions.pop(name, None) is not None:
                try:
                    self.loop.release(name)
                except errors.NotLoaded:
                    return
                except errors.ServingError as error:
                    raise RequestRefused(503, "unavailable", str(error)) from error

        await _in(self._loading, release)

    async def chat(self, request: EngineChat) -> PreparedRequest:
        """Return a conversation as it is asked. Raises RequestRefused."""
        name, texts = self._texts(request.model)
        _require_supported(request)
        stops = stop_texts(request.stop)
        if texts.template is None:
            raise RequestRefused(
                400,
                "no_template",
                "neither the version nor its base has a chat template; send the text to /v1/completions",
                param="messages",
            )
        try:
            messages = check_messages("messages", [_plain(message) for message in request.messages])
            tools = None if request.row_tools is None else check_tools(request.row_tools)
        except ValueError as error:
            raise RequestRefused(400, "invalid_value", f"the request {error}", param="messages") from error
        template = texts.template
        try:
            text = await self.renderer.prompt(template, messages, tools)
        except RenderingBusy as error:
            raise RequestRefused(429, "queue_full", str(error)) from error
        except RenderingRefused as error:
            raise RequestRefused(400, "not_rendered", str(error), param="messages") from error
        prompt = await self._encoded(texts.rendered, text)
        given = request.max_tokens if request.max_completion_tokens is None else request.max_completion_tokens
        logprobs = (request.top_logprobs or 0) if request.logprobs else None
        if request.top_logprobs is not None and not request.logprobs:
            raise RequestRefused(
                400, "invalid_value", "`top_logprobs` needs `logprobs`; set it, or leave both out", param="top_logprobs"
            )
        question = self._question(request, texts, name, prompt, given, logprobs)
        raw = bool(request.raw)
        return PreparedRequest(
            question,
            texts,
            request.model,
            stops,
            None if raw else texts.thoughts,
            texts.thoughts.within(text),
            raw,
            logprobs=logprobs is not None,
        )

    async def completion(self, request: EngineCompletion) -> PreparedRequest:
        """Return a prompt as it is asked. Raises RequestRefused."""
        name, texts = self._texts(request.model)
        _require_supported(request)
        stops = stop_texts(request.stop)
        given = request.prompt
        prompt = given if isinstance(given, list) else await self._encoded(texts.plain, given)
        if prompt and not 0 <= min(prompt) <= max(prompt) < len(texts.tokenizer):
            raise RequestRefused(
                400, "invalid_value", "the prompt has a token that the tokenizer doesn't; correct it", param="prompt"
            )
        most = _COMPLETION_TOKENS if request.max_tokens is None else request.max_tokens
        question = self._question(
            request,
            texts,
            name,
            prompt,
            most,
            request.logprobs,
            scores_prompt=bool(request.echo),
            scores_from=request.scores_from or 0,
        )
        echo = None
        if request.echo:
            echo = given if isinstance(given, str) else texts.vocabulary.decode(given)
        return PreparedRequest(
            question, texts, request.model, stops, None, False, bool(request.raw), echo, request.logprobs is not None
        )

    def submit(self, prepared: PreparedRequest, on_piece: Callable[[Token | Ended], None]) -> RunningQuestion:
        """Have a question answered. Raises RequestRefused if it can't be, or too many wait."""
        try:
            return self.loop.submit(prepared.question, on_piece)
        except errors.QueueFull as error:
            raise RequestRefused(429, "queue_full", str(error)) from error
        except errors.TooLong as error:
            raise RequestRefused(400, "context_length_exceeded", str(error), param="prompt") from error
        except errors.NotLoaded:
            raise _unknown() from None
        except errors.BadQuestion as error:
            raise RequestRefused(400, "invalid_value", str(error)) from error
        except errors.ServingError as error:
            raise RequestRefused(503, "unavailable", str(error)) from error

    async def _encoded(self, encode: Callable[[str], list[int]], text: str) -> list[int]:
        """Return a text's tokens. Raises RequestRefused for one that is much longer than the context, of which not all is read: others
        wait for their tokens meanwhile.
        """
        most = self.context_tokens

        def encoded() -> list[int]:
            head = _HEAD_CHARACTERS * most
            while head < len(text):
                # Where a text is cut, its tokens are others, but not half of them.
                if len(encode(text[:head])) > 2 * most:
                    raise RequestRefused(
                        400,
                        "context_length_exceeded",
                        f"the prompt has more than {2 * most} tokens, and the context {most}; shorten the prompt",
                        param="prompt",
                    )
                head *= 4
            return encode(text)

        return await _in(self._encoding, encoded)

    def _texts(self, model: str) -> tuple[str | None, TextsOfVersion]:
        if model == BASE_NAME:
            return None, self.texts.bare
        if (version := self.versions.get(model)) is None:
            raise _unknown()
        return model, version.texts

    def _question(
        self,
        request: EngineChat | EngineCompletion,
        texts: TextsOfVersion,
        name: str | None,
        prompt: Sequence[int],
        max_tokens: int | None,
        logprobs: int | None,
        *,
        scores_prompt: bool = False,
        scores_from: int = 0,
    ) -> DecodeQuestion:
        if not prompt:
            raise RequestRefused(400, "invalid_value", "the prompt has no tokens; send some text", param="prompt")
        left = self.context_tokens - len(prompt)
        if max_tokens is None:
            max_tokens = max(1, left)
        if max_tokens > left:
            raise RequestRefused(
                400,
                "context_length_exceeded",
                f"the prompt has {len(prompt)} tokens, which with {max_tokens} of an answer is more than the {self.context_tokens} of"
                " the context; shorten the prompt, or lower max_tokens",
                param="max_tokens" if left > 0 else "prompt",
            )
        seed = request.seed
        return DecodeQuestion(
            prompt=tuple(prompt),
            adapter=name,
            max_tokens=max_tokens,
            temperature=1.0 if request.temperature is None else request.temperature,
            top_p=1.0 if request.top_p is None else request.top_p,
            seed=secrets.randbits(63) if seed is None else seed % 2**63,
            stop_ids=texts.stop_ids | frozenset(request.stop_token_ids or ()),
            logprobs=logprobs,
            scores_prompt=scores_prompt and logprobs is not None,
            scores_from=scores_from,
        )


def _unknown() -> RequestRefused:
    return RequestRefused(
        404, "model_not_found", "no version of this name is loaded; load it with POST /load", param="model"
    )


def _require_supported(request: EngineChat | EngineCompletion) -> None:
    """Raise RequestRefused for what OpenAI's requests may ask for, and this engine doesn't have."""
    form = request.response_format
    asked = {
        "response_format": form is not None and form.type != "text",
        "tools": isinstance(request, EngineChat) and bool(request.tools),
        "tool_choice": isinstance(request, EngineChat) and request.tool_choice not in (None, "none"),
    }
    for name, is_asked in asked.items():
        if is_asked:
            raise RequestRefused(
                400, "unsupported", f"this engine has no `{name}`; leave it out, or serve by another engine", param=name
            )
    if request.stream_options is not None and not request.stream:
        raise RequestRefused(
            400, "invalid_value", "`stream_options` needs `stream`; set it, or leave both out", param="stream_options"
        )


def _plain(message: ChatMessage) -> dict[str, Any]:
    found: dict[str, Any] = message.model_dump(mode="json", exclude_none=True)
    # It is read, not learnt: an answer may be empty.
    return {**found, "weight": 0} if message.role == "assistant" else found


async def _in(pool: ThreadPoolExecutor, do: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(pool, do)
