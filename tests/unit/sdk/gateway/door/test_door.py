"""What callers get from the gateway over real HTTP, and what an engine gets of what they send."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.gateways import Gateway, gateway
from support.serving_engine import adapter
from support.waiting import wait_until

from sdk.gateway.tables.served_tables import TableAge

CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with gateway(tmp_path_factory.mktemp("served")) as running:
        yield running


@pytest.fixture
def client(served: Gateway) -> Iterator[httpx.Client]:
    with served.client() as client:
        yield client


def chat(client: httpx.Client, model: str = "sql", **fields: Any) -> httpx.Response:
    return client.post(CHAT, json={"model": model, "messages": MESSAGES, **fields})


@pytest.mark.parametrize(
    ("model", "version"),
    [
        ("sql", "sql@v2"),
        ("sql@latest", "sql@v2"),
        ("sql@production", "sql@v1"),
        ("sql@v1", "sql@v1"),
        ("team/sql", "team/sql@v1"),
    ],
)
def test_a_name_is_answered_by_its_version_and_called_as_it_was_asked(
    client: httpx.Client, model: str, version: str
) -> None:
    answer = chat(client, model)
    assert answer.headers["x-adapterctl-version"] == version
    assert answer.json()["model"] == model
    assert answer.json()["choices"][0]["message"]["content"].split() == [version] * 3


def test_a_stream_is_called_as_it_was_asked_in_each_event(client: httpx.Client) -> None:
    with client.stream("POST", CHAT, json={"model": "sql@production", "messages": MESSAGES, "stream": True}) as answer:
        lines = [line for line in answer.iter_lines() if line]
        assert answer.headers["content-type"] == "text/event-stream"
        assert answer.headers["x-adapterctl-version"] == "sql@v1"
    assert lines[-1] == "data: [DONE]"
    events = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    assert {event["model"] for event in events} == {"sql@production"}
    assert "".join(event["choices"][0]["delta"]["content"] for event in events).split() == ["sql@v1"] * 3


def test_the_base_is_asked_by_its_name(client: httpx.Client) -> None:
    answer = client.post("/v1/completions", json={"model": "base:tiny", "prompt": "Hello"})
    assert answer.headers["x-adapterctl-version"] == "base:tiny"
    assert answer.json()["choices"][0]["text"].split() == ["stub-base"] * 3


@pytest.mark.parametrize(
    "model",
    [
        "nothing",
        "sql@v9",
        "sql@nothing",
        "other/sql",
        "../sql",
        "sql@v01",
        "SQL",
        "sql@",
        "base:other",
        "tiny",
        "stub-base",
        "a" * 512,
    ],
)
def test_all_else_is_one_sentence_however_it_is_not_there(client: httpx.Client, served: Gateway, model: str) -> None:
    before = len(served.bodies)
    answer = chat(client, model)
    assert answer.status_code == 404
    shown = ascii(model) if len(model) <= 100 else ascii(model[:97]) + "…"
    assert answer.json()["error"]["message"] == f"there is no model {shown} that this key may use; see: GET /v1/models"
    assert len(served.bodies) == before


def test_models_are_listed_with_what_they_mean(client: httpx.Client) -> None:
    models = {each["id"]: each["adapterctl"] for each in client.get("/v1/models").json()["data"]}
    assert {name: each["version"] for name, each in models.items()} == {
        "base:tiny": None,
        "sql": "sql@v2",
        "sql@production": "sql@v1",
        "sql@v1": "sql@v1",
        "sql@v2": "sql@v2",
        "team/sql": "team/sql@v1",
        "team/sql@v1": "team/sql@v1",
    }
    assert models["sql@v1"]["state"] == "serving"
    assert client.get("/v1/models/team/sql@v1").json()["id"] == "team/sql@v1"
    assert client.get("/v1/models/team/other").status_code == 404


#: What engines know and we don't: adapters by path, templates, locations that they would fetch, ways around a seed.
FOREIGN = [
    "lora",
    "lora_path",
    "lora_request",
    "adapter_id",
    "chat_template",
    "chat_template_kwargs",
    "documents",
    "add_generation_prompt",
    "continue_final_message",
    "guided_json",
    "guided_regex",
    "guided_grammar",
    "grammar",
    "json_schema",
    "structured_outputs",
    "mm_processor_kwargs",
    "kv_transfer_params",
    "cache_salt",
    "prompt_logprobs",
    "stop_token_ids",
    "ignore_eos",
    "min_tokens",
    "min_p",
    "top_k",
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
    "logit_bias",
    "use_beam_search",
    "best_of",
    "suffix",
    "echo_tokens",
    "priority",
    "request_id",
    "vllm_xargs",
    "return_tokens_as_token_ids",
    "bad_words",
    "include_stop_str_in_output",
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "truncate_prompt_tokens",
    "session_params",
    "session_id",
    "bootstrap_host",
    "bootstrap_port",
    "bootstrap_room",
    "rid",
    "input_ids",
    "input_embeds",
    "image_data",
    "custom_params",
    "custom_logit_processor",
    "separate_reasoning",
    "stream_reasoning",
    "slot_id",
    "id_slot",
    "cache_prompt",
    "n_predict",
    "samplers",
    "speculative.n_max",
    "timings_per_token",
    "reasoning_format",
    "thinking_forced_open",
    "parse_tool_calls",
    "return_hidden_states",
    "store",
    "metadata",
    "service_tier",
    "modalities",
    "audio",
    "prediction",
    "web_search_options",
    "function_call",
    "functions",
    "parallel_tool_calls",
    "reasoning_effort",
    "raw",
    "folder",
    "template",
    "day",
]


@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
def test_a_field_that_is_not_ours_never_reaches_an_engine(client: httpx.Client, served: Gateway, path: str) -> None:
    before = len(served.bodies)
    own = {"model": "sql", **({"messages": MESSAGES} if path == CHAT else {"prompt": "Hello"})}
    for field in FOREIGN:
        answer = client.post(path, json={**own, field: "/etc/passwd"})
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == field[:64]
        assert answer.json()["error"]["message"].endswith("is not a field of this request; leave it out")
    assert len(served.bodies) == before


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}}]},
        {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}]},
        {"role": "user", "content": [{"type": "text", "text": "a", "cache_control": {}}]},
        {"role": "user", "content": "a", "prefix": True},
        {"role": "root", "content": "a"},
    ],
)
def test_a_message_of_anything_but_text_never_reaches_an_engine(
    client: httpx.Client, served: Gateway, message: Any
) -> None:
    before = len(served.bodies)
    assert client.post(CHAT, json={"model": "sql", "messages": [message]}).status_code == 400
    assert len(served.bodies) == before


def test_a_schema_that_points_outside_itself_never_reaches_an_engine(client: httpx.Client) -> None:
    def schema(reference: str) -> dict[str, Any]:
        inside = {"type": "object", "properties": {"a": {"$ref": reference}}, "$defs": {"x": {"type": "string"}}}
        return {"type": "json_schema", "json_schema": {"name": "x", "schema": inside}}

    assert chat(client, response_format=schema("http://example.com/x.json")).status_code == 400
    assert chat(client, response_format=schema("#/$defs/x")).status_code == 200


def test_a_body_is_written_anew_with_every_default(client: httpx.Client, served: Gateway) -> None:
    chat(client, "sql@production", user="me", n=1, stop="a", max_completion_tokens=5)
    assert served.bodies[-1] == {
        "path": CHAT,
        "model": "sql@v1",
        "messages": MESSAGES,
        "stream": False,
        "temperature": 1.0,
        "top_p": 1.0,
        "stop": ["a"],
        "max_tokens": 5,
    }
    client.post(
        "/v1/completions",
        json={"model": "sql", "prompt": [1, 2], "temperature": 0, "seed": 3, "logprobs": 2, "echo": True},
    )
    assert served.bodies[-1] == {
        "path": "/v1/completions",
        "model": "sql@v2",
        "prompt": [1, 2],
        "stream": False,
        "temperature": 0.0,
        "top_p": 1.0,
        "seed": 3,
        "logprobs": 2,
        "echo": True,
        "max_tokens": 16,
    }


def test_a_key_that_is_given_twice_in_a_body_means_what_is_checked(client: httpx.Client, served: Gateway) -> None:
    body = b'{"model": "sql@v1", "model": "sql@v2", "prompt": "a", "prompt": "b"}'
    client.post("/v1/completions", content=body, headers={"Content-Type": "application/json"})
    assert (served.bodies[-1]["model"], served.bodies[-1]["prompt"]) == ("sql@v2", "b")


@pytest.mark.parametrize(
    "kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/jsonp"]
)
def test_a_body_of_another_type_is_refused(client: httpx.Client, kind: str | None) -> None:
    body = json.dumps({"model": "sql", "messages": MESSAGES})
    assert client.post(CHAT, content=body, headers={} if kind is None else {"Content-Type": kind}).status_code == 415


@pytest.mark.parametrize(
    ("host", "status"),
    [("evil.example", 421), ("127.0.0.1.evil.example", 421), ("localhost", 200), ("gateway.example.com:80", 200)],
)
def test_a_request_for_another_host_is_refused(client: httpx.Client, host: str, status: int) -> None:
    assert client.get("/v1/models", headers={"Host": host}).status_code == status


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1", "file://"])
def test_a_page_of_another_origin_is_refused(client: httpx.Client, origin: str) -> None:
    answer = client.get("/v1/models", headers={"Origin": origin})
    assert answer.status_code == 403
    assert not any(name.startswith("access-control") for name in answer.headers)


@pytest.mark.parametrize("key", [None, "Bearer", "Bearer wrong", "Basic c2s6", "Bearer " + "x" * 5000])
def test_nothing_is_said_without_the_key(served: Gateway, key: str | None) -> None:
    headers = {} if key is None else {"Authorization": key}
    for answer in (
        httpx.get(f"{served.url}/v1/models", headers=headers),
        httpx.post(f"{served.url}{CHAT}", json={"model": "sql", "messages": MESSAGES}, headers=headers),
    ):
        assert answer.status_code == 401
        assert "sql" not in answer.text


def test_health_and_readiness_need_no_key_and_name_nothing(served: Gateway) -> None:
    for path in ("/healthz", "/health", "/readyz"):
        answer = httpx.get(f"{served.url}{path}")
        assert answer.status_code == 200
        assert "sql" not in answer.text


def test_nobody_without_a_key_learns_where_the_engine_is(tmp_path: Path) -> None:
    with gateway(tmp_path) as served:
        served.stub.is_away = True
        wait_until(lambda: any(served.stub_url in line for line in served.lines))
        answer = httpx.get(f"{served.url}/readyz")
        assert answer.status_code == 503
        assert answer.json()["reason"] == "the engine isn't there; see the gateway's log"


def test_a_registry_that_is_away_is_seen_in_each_answer(served: Gateway, client: httpx.Client) -> None:
    served.tables.age = TableAge(1_700_000_000.0, 1_700_000_060.0)
    try:
        assert chat(client).headers["x-adapterctl-registry-away-since"] == "2023-11-14T22:14:20Z"
        ready = httpx.get(f"{served.url}/readyz").json()
    finally:
        served.tables.age = TableAge(0.0, None)
    assert (ready["table_at"], ready["registry_away_since"]) == ("2023-11-14T22:13:20Z", "2023-11-14T22:14:20Z")
    assert "x-adapterctl-registry-away-since" not in chat(client).headers


@pytest.mark.parametrize(("status", "seen"), [(400, 400), (422, 400), (404, 503), (429, 429), (500, 502), (401, 502)])
def test_a_refusal_of_the_engine_becomes_one_of_the_gateway(
    served: Gateway, client: httpx.Client, status: int, seen: int
) -> None:
    httpx.post(f"{served.stub_url}/status", json={"status": status})
    try:
        answer = chat(client)
    finally:
        httpx.post(f"{served.stub_url}/status", json={"status": None})
    assert answer.status_code == seen
    assert ("the stub refuses" in answer.text) == (seen == 400)


def test_a_caller_who_hangs_up_ends_the_engine_s_work(tmp_path: Path) -> None:
    with gateway(tmp_path, pieces=100_000, every_s=0.01) as served, served.client() as client:
        with client.stream("POST", CHAT, json={"model": "sql", "messages": MESSAGES, "stream": True}) as answer:
            next(answer.iter_lines())
        wait_until(lambda: served.cancelled == 1)
        wait_until(lambda: not any(each.running for each in served.do(served.moves.state)))


def test_a_request_keeps_its_version_while_its_name_moves(tmp_path: Path) -> None:
    with gateway(tmp_path, pieces=60, every_s=0.01) as served, served.client() as client:
        body = {"model": "sql@production", "messages": MESSAGES, "stream": True}
        with client.stream("POST", CHAT, json=body) as answer:
            lines = answer.iter_lines()
            next(lines)
            served.update(adapter("sql", 1, 2, production=2))
            with served.client() as other:
                assert chat(other, "sql@production").headers["x-adapterctl-version"] == "sql@v2"
            text = "".join(lines)
    assert "sql@v1 " in text
    assert "sql@v2" not in text


def test_a_version_that_is_deleted_ends_its_streams_and_gets_no_request(tmp_path: Path) -> None:
    with gateway(tmp_path, pieces=100_000, every_s=0.01) as served, served.client() as client:
        with client.stream("POST", CHAT, json={"model": "sql@v1", "messages": MESSAGES, "stream": True}) as answer:
            lines = answer.iter_lines()
            next(lines)
            served.do(lambda: served.moves.update([adapter("sql", 2)]))
            last = [line for line in lines if line][-1]
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "not_found"
        assert chat(client, "sql@v1").status_code == 404
        assert chat(client, "sql@production").status_code == 404


def test_requests_beyond_the_most_are_told_to_come_again(tmp_path: Path) -> None:
    with gateway(tmp_path, pieces=100_000, every_s=0.01, most_running=2) as served, served.client() as client:
        with client.stream("POST", CHAT, json={"model": "sql", "messages": MESSAGES, "stream": True}) as answer:
            lines = answer.iter_lines()
            next(lines)
            with served.client() as other:
                late = chat(other)
            assert (late.status_code, late.headers["retry-after"]) == (429, "1")
        wait_until(lambda: chat(client, "nothing").status_code == 404)


def test_streams_end_within_the_drain_and_new_requests_are_refused(tmp_path: Path) -> None:
    body = {"model": "sql", "messages": MESSAGES, "stream": True}

    def is_closed(url: str) -> bool:
        try:
            return httpx.get(f"{url}/healthz").status_code != 200
        except httpx.HTTPError:
            return True

    with (
        gateway(tmp_path, pieces=40, every_s=0.02, drain_s=20) as served,
        served.client() as client,
        client.stream("POST", CHAT, json=body) as answer,
    ):
        lines = answer.iter_lines()
        next(lines)
        served.server.should_exit = True
        wait_until(lambda: is_closed(served.url))
        assert list(lines)[-2:] == ["data: [DONE]", ""]


def test_no_prompt_answer_or_key_is_in_any_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary = "canary-0b7d"
    caplog.set_level(logging.DEBUG)
    with gateway(tmp_path) as served:
        # The client of this test says where it sends what.
        monkeypatch.setattr(logging.getLogger("httpx"), "disabled", True)
        with served.client() as client:
            chat(client, "sql", messages=[{"role": "user", "content": canary}])
            chat(client, "sql", messages=[{"role": canary, "content": canary}])
            chat(client, canary)
            client.post(CHAT, content=canary, headers={"Content-Type": "application/json"})
            httpx.post(f"{served.stub_url}/status", json={"status": 500})
            chat(client, "sql", messages=[{"role": "user", "content": canary}])
        httpx.get(f"{served.url}/v1/models", headers={"Authorization": f"Bearer {canary}"})
        lines = list(served.lines)
    ours = [record.getMessage() for record in caplog.records if record.name.startswith(("sdk.", "uvicorn"))]
    assert any("refused a wrong key" in line for line in ours)
    assert not [line for line in [*ours, *lines] if canary in line]
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and canary in path.read_text(errors="replace")]
