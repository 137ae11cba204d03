"""A caller's body: what is wrong with it is said with its name, whatever is in it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sdk.gateway.door.refusals import Declined
from sdk.gateway.door.requests import ChatBody, parse, require_taken, written


def refused(**fields: Any) -> Declined:
    body = {"model": "sql", "messages": [{"role": "user", "content": "a"}], **fields}
    with pytest.raises(Declined) as raised:
        written(parse(ChatBody, json.dumps(body).encode()))
    return raised.value


@pytest.mark.parametrize(
    "config",
    [
        '{"temperature": 1' + "0" * 400 + "}",
        '{"top_p": -1' + "0" * 4000 + "}",
        '{"temperature": NaN}',
        '{"temperature": Infinity}',
        '{"temperature": [1]}',
        '{"max_new_tokens": 1e400}',
        "[" * 19_000,
        "null",
    ],
)
def test_a_generation_config_with_strange_numbers_is_refused(config: str) -> None:
    error = refused(generation_config=config)
    assert (error.status, error.param) == (400, "generation_config")


def test_too_many_stops_are_counted() -> None:
    error = refused(messages=[{"role": "user"}], stop=["a"] * 17)
    assert error.message.startswith("stop")
    assert "at most 16" in error.message


@pytest.mark.parametrize(
    ("part", "where"),
    [
        ({"type": "text", "text": "a", "cache_control": {}}, "messages.0.content.0.cache_control"),
        ({"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}}, "messages.0.content.0.image_url"),
        ({"type": "text", "text": 5}, "messages.0.content.0.text"),
    ],
)
def test_a_part_that_is_refused_is_named(part: dict[str, Any], where: str) -> None:
    error = refused(messages=[{"role": "user", "content": [part]}])
    assert (error.status, error.param) == (400, where)
    assert error.message.startswith(where)


def properties(count: int) -> dict[str, Any]:
    return {"type": "object", "properties": {f"p{number}": {"type": "string"} for number in range(count)}}


def tools(*schemas: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"type": "function", "function": {"name": "f", "parameters": schema}} for schema in schemas]


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"tools": tools(properties(101))}, "at most 100 members"),
        ({"tools": tools({"enum": list(range(501))})}, "a list 500"),
        ({"tools": tools(*[properties(90)] * 30)}, "5,000 values"),
        ({"tools": tools({"pattern": "(" * 200_001})}, "200,000 characters"),
        ({"tools": tools({"properties": {"(" * 200_001: {}}})}, "200,000 characters"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": properties(101)}}},
            "at most 100 members",
        ),
    ],
)
def test_a_schema_that_would_keep_an_engine_busy_is_refused(fields: dict[str, Any], sentence: str) -> None:
    assert sentence in refused(**fields).message


def test_as_many_tools_as_programs_have_are_taken() -> None:
    body = {"model": "sql", "messages": [{"role": "user", "content": "a"}], "tools": tools(*[properties(15)] * 100)}
    assert len(written(parse(ChatBody, json.dumps(body).encode()))["tools"]) == 100


@pytest.mark.parametrize(("given", "sent"), [(1e-40, 0.0), (1e-9, 0.0), (0.01, 0.01), (None, 1.0)])
def test_a_temperature_that_no_engine_can_divide_by_is_greedy(given: float | None, sent: float) -> None:
    fields = {} if given is None else {"temperature": given}
    body = {"model": "sql", "messages": [{"role": "user", "content": "a"}], **fields}
    assert written(parse(ChatBody, json.dumps(body).encode()))["temperature"] == sent


@pytest.mark.parametrize("seed", [-1, 2**32 - 1, 2**63 - 1, -(2**63), 2**32 - 2, 7, 0])
def test_a_seed_is_never_the_one_that_means_none_to_an_engine(seed: int) -> None:
    body = {"model": "sql", "messages": [{"role": "user", "content": "a"}], "seed": seed}
    sent = written(parse(ChatBody, json.dumps(body).encode()))["seed"]
    assert 0 <= sent < 2**32 - 1
    assert sent == seed or not 0 <= seed < 2**32 - 1


def test_an_answer_of_no_tokens_is_for_engines_that_echo() -> None:
    body = {"model": "sql", "messages": [{"role": "user", "content": "a"}], "max_tokens": 0}
    request = parse(ChatBody, json.dumps(body).encode())
    require_taken(request, frozenset({"echo"}), "local")
    with pytest.raises(Declined, match=r"max_tokens can't be 0 with the engine llama\.cpp"):
        require_taken(request, frozenset(), "llama.cpp")
