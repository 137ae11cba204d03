"""OpenAI's requests for completions, as the gateway and the engine program take them: an allow-list.

Any other field is refused with its name: engines take paths of adapters, templates and URLs to fetch in the body.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, JsonValue, StringConstraints, model_validator

from sdk.schemas.wire import IF_SET, Wire

Role = Literal["system", "developer", "user", "assistant", "tool"]

#: The most texts at which an answer ends, the most characters of each, and the most of a name.
MOST_STOPS, MOST_STOP_CHARACTERS, MOST_NAME_CHARACTERS = 16, 1000, 256
#: What counts of tokens and seeds are within.
_COUNT = Field(ge=0, le=2**31 - 1)

Name = Annotated[str, StringConstraints(min_length=1, max_length=MOST_NAME_CHARACTERS)]
Stop = Annotated[str, StringConstraints(min_length=1, max_length=MOST_STOP_CHARACTERS)]


#: The most members of one object, and of one list, of a JSON schema, and the most values and characters in all of a request's: an
#: engine's grammar of 1,000 properties that may be left out takes 20 s to make, which all others wait for.
MOST_SCHEMA_MEMBERS, MOST_SCHEMA_ITEMS, MOST_SCHEMA_VALUES, MOST_SCHEMA_CHARACTERS = 100, 500, 5000, 200_000


def _without_references(schema: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Refuse references to anything outside a JSON schema: an engine may fetch them."""
    for item in _values(schema):
        if isinstance(item, Mapping) and any(
            key in item and not _is_inner(item[key]) for key in ("$ref", "$dynamicRef", "$recursiveRef")
        ):
            raise ValueError("a reference in a JSON schema begins with '#', as it stays within the schema")
    return schema


def _require_small(schemas: Iterable[JsonValue]) -> None:
    """Raise ValueError for schemas that together take long to be read by an engine."""
    values = characters = 0
    for schema in schemas:
        for item in _values(schema):
            values += 1
            if isinstance(item, Mapping):
                characters += sum(map(len, item))
            if (isinstance(item, Mapping) and len(item) > MOST_SCHEMA_MEMBERS) or (
                isinstance(item, list) and len(item) > MOST_SCHEMA_ITEMS
            ):
                raise ValueError(
                    f"an object in a JSON schema has at most {MOST_SCHEMA_MEMBERS} members, and a list {MOST_SCHEMA_ITEMS}"
                )
            characters += len(item) if isinstance(item, str) else 0
    if values > MOST_SCHEMA_VALUES or characters > MOST_SCHEMA_CHARACTERS:
        raise ValueError(
            f"the JSON schemas of a request have at most {MOST_SCHEMA_VALUES:,} values and {MOST_SCHEMA_CHARACTERS:,} characters together"
        )


def _values(schema: JsonValue) -> Iterator[JsonValue]:
    """Yield everything in a value, itself first."""
    waiting: list[JsonValue] = [schema]
    while waiting:
        item = waiting.pop()
        yield item
        if isinstance(item, Mapping):
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)


def _is_inner(reference: JsonValue) -> bool:
    # A property may be called "$ref", and then this is its schema.
    return not isinstance(reference, str) or reference.startswith("#")


JsonSchema = Annotated[dict[str, JsonValue], AfterValidator(_without_references)]


class TextPart(Wire):
    """A part of a message."""

    type: Literal["text"]
    text: str


class FunctionCall(Wire):
    """Which function is called, with its arguments as JSON text."""

    name: Name
    arguments: str


class ToolCall(Wire):
    """A call that an assistant made."""

    id: Name
    type: Literal["function"]
    function: FunctionCall


class FunctionDefinition(Wire):
    """A function that a model may call."""

    name: Name
    description: Annotated[str | None, IF_SET] = None
    parameters: Annotated[JsonSchema | None, IF_SET] = None
    strict: Annotated[bool | None, IF_SET] = None


class Tool(Wire):
    """A tool that a model may use."""

    type: Literal["function"]
    function: FunctionDefinition


class FunctionName(Wire):
    """Which function is meant."""

    name: Name


class NamedTool(Wire):
    """The tool that has to be used."""

    type: Literal["function"]
    function: FunctionName


class NamedSchema(Wire):
    """The JSON schema of an answer."""

    # `schema` is a method of its base.
    model_config = ConfigDict(validate_by_name=True, serialize_by_alias=True)

    name: Name
    description: Annotated[str | None, IF_SET] = None
    schema_: Annotated[JsonSchema | None, IF_SET, Field(alias="schema")] = None
    strict: Annotated[bool | None, IF_SET] = None


class ResponseFormat(Wire):
    """What an answer looks like."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: Annotated[NamedSchema | None, IF_SET] = None


class ChatMessage(Wire):
    """A message of a conversation."""

    role: Role
    content: Annotated[str | list[TextPart] | None, IF_SET] = None
    name: Annotated[Name | None, IF_SET] = None
    reasoning_content: Annotated[str | None, IF_SET] = None
    tool_calls: Annotated[list[ToolCall] | None, IF_SET] = None
    tool_call_id: Annotated[Name | None, IF_SET] = None


class StreamOptions(Wire):
    """What a stream has besides its pieces."""

    include_usage: bool = False


class _Sampling(Wire):
    """How tokens are chosen, and when the answer ends."""

    model: Annotated[str, Field(min_length=1, max_length=512)]
    n: Annotated[Literal[1] | None, IF_SET] = None
    max_tokens: Annotated[int | None, IF_SET, _COUNT] = None
    #: None: 1, as OpenAI has it; 0 is greedy.
    temperature: Annotated[float | None, IF_SET, Field(ge=0, le=2)] = None
    top_p: Annotated[float | None, IF_SET, Field(gt=0, le=1)] = None
    seed: Annotated[int | None, IF_SET, Field(ge=-(2**63), le=2**63 - 1)] = None
    stop: Annotated[Stop | Annotated[list[Stop], Field(max_length=MOST_STOPS)] | None, IF_SET] = None
    stream: Annotated[bool | None, IF_SET] = None
    stream_options: Annotated[StreamOptions | None, IF_SET] = None
    user: Annotated[Name | None, IF_SET] = None
    response_format: Annotated[ResponseFormat | None, IF_SET] = None

    @model_validator(mode="after")
    def _with_small_schemas(self) -> Self:
        _require_small(self.json_schemas())
        return self

    def json_schemas(self) -> list[JsonValue]:
        """Return all of them in this request."""
        form = self.response_format
        return [form.json_schema.schema_] if form is not None and form.json_schema is not None else []


class ChatRequest(_Sampling):
    """The body of `POST /v1/chat/completions`."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=10_000)]
    max_completion_tokens: Annotated[int | None, IF_SET, _COUNT] = None
    tools: Annotated[list[Tool] | None, IF_SET, Field(max_length=1000)] = None
    tool_choice: Annotated[Literal["none", "auto", "required"] | NamedTool | None, IF_SET] = None
    logprobs: Annotated[bool | None, IF_SET] = None
    top_logprobs: Annotated[int | None, IF_SET, Field(ge=0, le=20)] = None

    def json_schemas(self) -> list[JsonValue]:
        """Return all of them in this request."""
        return [*super().json_schemas(), *(tool.function.parameters for tool in self.tools or ())]


class CompletionRequest(_Sampling):
    """The body of `POST /v1/completions`."""

    #: Text, or tokens.
    prompt: str | list[Annotated[int, Field(ge=0, le=2**31 - 1)]]
    logprobs: Annotated[int | None, IF_SET, Field(ge=0, le=20)] = None
    #: Whether the prompt comes back, with `logprobs` each of its tokens with its log-probability; with `max_tokens` 0 nothing else.
    echo: Annotated[bool | None, IF_SET] = None
