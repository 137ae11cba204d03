"""OpenAI's requests for completions, as the gateway and the engine program take them: an allow-list.

Any other field is refused with its name: engines take paths of adapters, templates and URLs to fetch in the body.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue

from sdk.schemas.wire import IF_SET, Wire

Role = Literal["system", "developer", "user", "assistant", "tool"]


class TextPart(Wire):
    """A part of a message."""

    type: Literal["text"]
    text: str


class FunctionCall(Wire):
    """Which function is called, with its arguments as JSON text."""

    name: str
    arguments: str


class ToolCall(Wire):
    """A call that an assistant made."""

    id: str
    type: Literal["function"]
    function: FunctionCall


class ChatMessage(Wire):
    """A message of a conversation."""

    role: Role
    content: Annotated[str | list[TextPart] | None, IF_SET] = None
    name: Annotated[str | None, IF_SET] = None
    reasoning_content: Annotated[str | None, IF_SET] = None
    tool_calls: Annotated[list[ToolCall] | None, IF_SET] = None
    tool_call_id: Annotated[str | None, IF_SET] = None


class StreamOptions(Wire):
    """What a stream has besides its pieces."""

    include_usage: bool = False


class _Sampling(Wire):
    """How tokens are chosen, and when the answer ends."""

    model: Annotated[str, Field(min_length=1, max_length=512)]
    n: Annotated[Literal[1] | None, IF_SET] = None
    max_tokens: Annotated[int | None, IF_SET, Field(ge=0)] = None
    #: None: 1, as OpenAI has it; 0 is greedy.
    temperature: Annotated[float | None, IF_SET, Field(ge=0, le=2)] = None
    top_p: Annotated[float | None, IF_SET, Field(gt=0, le=1)] = None
    seed: Annotated[int | None, IF_SET] = None
    stop: Annotated[str | list[str] | None, IF_SET] = None
    stream: Annotated[bool | None, IF_SET] = None
    stream_options: Annotated[StreamOptions | None, IF_SET] = None
    user: Annotated[str | None, IF_SET] = None
    response_format: Annotated[dict[str, JsonValue] | None, IF_SET] = None


class ChatRequest(_Sampling):
    """The body of `POST /v1/chat/completions`."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=10_000)]
    max_completion_tokens: Annotated[int | None, IF_SET, Field(ge=0)] = None
    tools: Annotated[list[dict[str, JsonValue]] | None, IF_SET] = None
    tool_choice: Annotated[Any | None, IF_SET] = None
    logprobs: Annotated[bool | None, IF_SET] = None
    top_logprobs: Annotated[int | None, IF_SET, Field(ge=0, le=20)] = None


class CompletionRequest(_Sampling):
    """The body of `POST /v1/completions`."""

    #: Text, or tokens.
    prompt: str | list[int]
    logprobs: Annotated[int | None, IF_SET, Field(ge=0, le=20)] = None
    #: Whether the prompt comes back, with `logprobs` each of its tokens with its log-probability; with `max_tokens` 0 nothing else.
    echo: Annotated[bool | None, IF_SET] = None
