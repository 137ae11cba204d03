"""A caller's body, and the body that an engine gets instead: written anew from an allow-list, with every default said.

>>> parsed = parse(CompletionBody, b'{"model": "review", "prompt": "Hello"}')
>>> written(parsed)
{'stream': False, 'temperature': 1.0, 'top_p': 1.0, 'max_tokens': 16, 'prompt': 'Hello'}
>>> parse(CompletionBody, b'{"model": "review", "prompt": "Hello", "lora_path": "/etc"}')
Traceback (most recent call last):
sdk.gateway.door.refusals.Declined: lora_path is not a field of this request; leave it out
"""

from __future__ import annotations

import re
from typing import Annotated, Any, TypeVar

from pydantic import Field, ValidationError
from pydantic_core import from_json

from sdk.gateway.door.refusals import Declined
from sdk.schemas.completions import ChatRequest, CompletionRequest
from sdk.schemas.wire import IF_SET

#: The longest body in bytes, and the most numbers, texts, lists and objects in it: the tokens of a long prompt.
MAX_BODY_BYTES, MAX_VALUES = 2 * 1024 * 1024, 150_000
#: OpenAI's own number of tokens for a plain completion. Engines have others, or none.
_USUAL_TOKENS = 16
#: What is sampled below this temperature is the likeliest token, which engines' numbers don't say any more if it is lower still.
_GREEDY_BELOW = 1e-5
#: How many seeds there are. llama.cpp takes 32 bits of one, and draws another itself for the number that has them all.
_SEEDS = 2**32 - 1
#: With more faults than this, a body's faults are counted and not explained, which takes a kilobyte for each.
_MOST_EXPLAINED = 100
#: A text, or the beginning of one that does not end. It always matches, so that no byte is looked at twice.
_TEXT = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)


class ChatBody(ChatRequest):
    """A chat's body. `generation_config`, JSON as text, is how `transformers chat` says the rest; it goes no further."""

    generation_config: Annotated[str | None, IF_SET, Field(max_length=20_000)] = None


#: A completion's body.
CompletionBody = CompletionRequest
B = TypeVar("B", ChatBody, CompletionRequest)


def parse(kind: type[B], body: bytes) -> B:
    """Return the request in a body, in time and memory that grow with its length. Raises Declined."""
    if _most_values(body) > MAX_VALUES and _most_values(_TEXT.sub(b"", body)) > MAX_VALUES:
        raise _bad(f"the body has more than {MAX_VALUES:,} values; send fewer at once")
    try:
        value = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise _bad(f"the body is not JSON ({_first_line(error)}); send one JSON object") from None
    if not isinstance(value, dict):
        raise _bad("the body is not a JSON object; send one")
    unknown = next((key for key in value if key not in kind.model_fields), None)
    if unknown is not None:
        shown = unknown if re.fullmatch(r"\w{1,64}", unknown, re.ASCII) else ascii(unknown[:64])
        raise _bad(f"{shown} is not a field of this request; leave it out", param=unknown[:64])
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise _explained(error) from None


def written(request: ChatBody | CompletionRequest) -> dict[str, Any]:
    """Return the body for an engine, without the model's name: what is in it is what callers may say, and nothing else.

    Raises Declined for a `generation_config` that is none.
    """
    given = request if isinstance(request, CompletionRequest) else _with_generation_config(request)
    stops = [given.stop] if isinstance(given.stop, str) else given.stop
    body: dict[str, Any] = {
        "stream": bool(given.stream),
        # Engines have other defaults than OpenAI, and each its own.
        "temperature": _temperature(given.temperature),
        "top_p": 1.0 if given.top_p is None else given.top_p,
        **({"seed": given.seed % _SEEDS} if given.seed is not None else {}),
        **({"stop": stops} if stops else {}),
        **({"stream_options": given.stream_options.model_dump()} if given.stream and given.stream_options else {}),
        **_response_format(given),
    }
    if isinstance(given, CompletionRequest):
        body["max_tokens"] = _USUAL_TOKENS if given.max_tokens is None else given.max_tokens
        rest = given.model_dump(include={"prompt", "logprobs", "echo"}, exclude_none=True)
    else:
        # The later name counts, as at OpenAI.
        tokens = given.max_tokens if given.max_completion_tokens is None else given.max_completion_tokens
        if tokens is not None:
            body["max_tokens"] = tokens
        kept = {"messages", "logprobs", "top_logprobs", *(("tools", "tool_choice") if given.tools else ())}
        rest = given.model_dump(include=kept, exclude_none=True)
    return body | rest


def as_completion(chat: dict[str, Any], tokens: list[int], context_tokens: int) -> dict[str, Any]:
    """Return the body of a plain completion for a chat's, whose conversation is these tokens; there is room for an answer."""
    body = {
        key: value for key, value in chat.items() if key not in ("messages", "logprobs", "top_logprobs", "tool_choice")
    }
    body["prompt"] = tokens
    # Without a number it would be that of plain completions.
    body.setdefault("max_tokens", context_tokens - len(tokens))
    if chat.get("logprobs"):
        body["logprobs"] = chat.get("top_logprobs", 0)
    return body


def require_taken(request: ChatBody | CompletionRequest, takes: frozenset[str], engine: str) -> None:
    """Raise Declined for a field that the engine behind the gateway doesn't have."""
    given = {
        "response_format": request.response_format is not None and request.response_format.type != "text",
        "tools": isinstance(request, ChatRequest) and bool(request.tools),
        "tool_choice": isinstance(request, ChatRequest) and request.tool_choice not in (None, "none", "auto"),
        # With log-probabilities, a few at once end vLLM 0.32 where adapters run beside; llama.cpp doesn't have it.
        "echo": isinstance(request, CompletionRequest) and bool(request.echo),
    }
    for field, is_given in given.items():
        if is_given and ("tools" if field == "tool_choice" else field) not in takes:
            raise _bad(f"the engine {engine} has no {field}; leave it out", param=field)
    for field in ("max_tokens", "max_completion_tokens"):
        # Without an echo there would be nothing in the answer; llama.cpp writes a token even so.
        if getattr(request, field, None) == 0 and "echo" not in takes:
            raise _bad(f"{field} can't be 0 with the engine {engine}; use 1 or more", param=field)


def _temperature(given: float | None) -> float:
    if given is None:
        return 1.0
    return 0.0 if given < _GREEDY_BELOW else given


def _response_format(given: ChatBody | CompletionRequest) -> dict[str, Any]:
    """Return what an engine is told of the answer's form, if that isn't text."""
    form = given.response_format
    return {} if form is None or form.type == "text" else {"response_format": form.model_dump()}


def _with_generation_config(request: ChatBody) -> ChatBody:
    """Return a chat with what a `generation_config` says where the request says nothing."""
    if request.generation_config is None:
        return request
    try:
        config = from_json(request.generation_config)
        if not isinstance(config, dict):
            raise ValueError("no object")
        sampled = config.get("do_sample") is not False
        found = {
            "max_tokens": config.get("max_new_tokens"),
            "temperature": config.get("temperature") if sampled else 0.0,
            "top_p": config.get("top_p") if sampled else None,
        }
        # Whole numbers are written without a point there.
        numbers = {
            name: float(value) if name != "max_tokens" else value for name, value in found.items() if value is not None
        }
        said = {"max_tokens"} if request.max_completion_tokens is not None else set()
        said |= {name for name in numbers if getattr(request, name) is not None}
        checked = ChatBody.model_validate(
            {"model": "-", "messages": [{"role": "user"}], **{k: v for k, v in numbers.items() if k not in said}}
        )
    except (ValueError, TypeError, OverflowError):
        raise _bad(
            "generation_config is not a generation config as JSON; leave it out", param="generation_config"
        ) from None
    return request.model_copy(update={name: getattr(checked, name) for name in numbers if name not in said})


def _explained(error: ValidationError) -> Declined:
    if (count := error.error_count()) > _MOST_EXPLAINED:
        return _bad(f"the body has {count:,} values that this request can't have; correct them")
    # A value that may be of several kinds has a fault for each; the one for which most of it was read is what was meant.
    first = max(
        error.errors(include_url=False, include_input=False, include_context=False),
        key=lambda fault: (
            fault["type"] == "extra_forbidden",
            len(fault["loc"]),
            # What is wrong with a value of the right kind.
            not fault["type"].endswith("_type"),
        ),
    )
    where = ".".join(str(part) for part in first["loc"] if isinstance(part, int) or re.fullmatch(r"\w{1,64}", part))
    if first["type"] == "extra_forbidden":
        return _bad(f"{where} is not a field of this request; leave it out", param=where)
    message = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return _bad(f"{where + ': ' if where else ''}{message[:300]}; correct it", param=where or None)


def _most_values(body: bytes) -> int:
    return 1 + body.count(b",") + body.count(b"[") + body.count(b"{")


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:200]


def _bad(message: str, *, param: str | None = None) -> Declined:
    return Declined(400, "invalid", message, param=param)
