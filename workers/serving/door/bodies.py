"""The bodies that the engine program reads: OpenAI's from `sdk.schemas.completions`, with private fields, and its own."""

from __future__ import annotations

from typing import Annotated, TypeVar

from pydantic import Field, JsonValue, ValidationError

from sdk.schemas.completions import ChatRequest, CompletionRequest
from sdk.schemas.recorded import Day
from sdk.schemas.wire import IF_SET, Sha256, Wire
from workers.serving.door.refusals import RequestRefused
from workers.serving.texts.stops import MOST_STOP_CHARACTERS, MOST_STOPS

#: The most bytes of a body.
MOST_BODY_BYTES = 4 * 1024 * 1024

_TokenIds = Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=256)]
T = TypeVar("T", bound=Wire)


class EngineChat(ChatRequest):
    """A conversation to be answered. The private fields never come from a gateway's callers."""

    #: Tokens that end the answer besides those of the version.
    stop_token_ids: Annotated[_TokenIds | None, IF_SET] = None
    #: Whether the answer is shown as it is: with control tokens, and reasoning left in it.
    raw: Annotated[bool | None, IF_SET] = None
    #: Tools as a row has them, key for key: the template is given them, and calls stay text in the answer.
    row_tools: Annotated[list[dict[str, JsonValue]] | None, IF_SET, Field(max_length=1000)] = None


class EngineCompletion(CompletionRequest):
    """A prompt to be continued, or scored. The private fields are those of `EngineChat`."""

    stop_token_ids: Annotated[_TokenIds | None, IF_SET] = None
    raw: Annotated[bool | None, IF_SET] = None
    #: The first token of an echoed prompt that is scored; None: all are.
    scores_from: Annotated[int | None, IF_SET, Field(ge=0)] = None


class LoadBody(Wire):
    """The body of `POST /load`: a version, and what its record says that its folder may not."""

    #: What requests call it.
    name: Annotated[str, Field(min_length=1, max_length=512)]
    folder: Annotated[str, Field(min_length=1, max_length=4096)]
    #: Tokens that end what it has learnt.
    stop_ids: _TokenIds = []  # noqa: RUF012 - a model's default is copied
    #: The day that its template writes; None: that of its folder, or else today.
    day: Day | None = None
    #: The SHA-256 of the template that its rows were rendered with; None: that in its folder, or else the base's.
    template: Sha256 | None = None


class ReleaseBody(Wire):
    """The body of `POST /release`."""

    name: Annotated[str, Field(min_length=1, max_length=512)]


def parse_body(kind: type[T], body: bytes) -> T:
    """Return a request's body. Raises RequestRefused, which quotes nothing of it but a field's name."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
    # Each member of a union has its own errors: the one that fits best goes deepest.
    first = max(found, key=lambda each: (each["type"] == "extra_forbidden", len(each["loc"])))
    place = ".".join(str(part)[:80] for part in first["loc"] if not _of_a_union(part))
    if first["type"] == "extra_forbidden":
        raise RequestRefused(400, "unknown_field", f"`{place}` is not known here; leave it out", param=place) from None
    if first["type"] == "json_invalid":
        raise RequestRefused(400, "invalid_json", "the body is not JSON; send a JSON object") from None
    problem = str(first["msg"])[:200].removesuffix(".")
    where = f"`{place}`" if place else "the body"
    raise RequestRefused(
        400,
        "invalid_value",
        f"{where} can't be used ({problem[:1].lower()}{problem[1:]}); correct it",
        param=place or None,
    ) from None


def _of_a_union(part: int | str) -> bool:
    """Whether a part of an error's place is the name of a type, and not of a field."""
    return isinstance(part, str) and (part in ("str", "int") or "[" in part)


def stop_texts(given: str | list[str] | None) -> list[str]:
    """Return the stop texts of a request. Raises RequestRefused for too many, or one that is empty or too long."""
    texts = [given] if isinstance(given, str) else list(given or ())
    if len(texts) > MOST_STOPS or any(not 1 <= len(text) <= MOST_STOP_CHARACTERS for text in texts):
        raise RequestRefused(
            400,
            "invalid_value",
            f"`stop` has at most {MOST_STOPS} texts of 1 to {MOST_STOP_CHARACTERS} characters; shorten it",
            param="stop",
        )
    return texts
