"""Two chat templates in front of one engine: the engine's own is passed on, the other is rendered and sent as tokens."""

from __future__ import annotations

import asyncio
import hashlib
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support import tiny
from support.gateways import Gateway, gateway
from support.serving_engine import adapter

from sdk.gateway.door.refusals import Declined
from sdk.gateway.door.renderers import Renderers
from sdk.gateway.door.templates import VersionFiles

OWN = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
OTHER = "{{ eos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}"
DATED = "{{ strftime_now('%d %b %Y') }}\n" + OWN
HOSTILE = "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}"
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
MESSAGES = [{"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]}]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    tiny.save_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def served(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with gateway(
        tmp_path_factory.mktemp("served"),
        base=base,
        template=hashlib.sha256(OWN.encode()).hexdigest(),
        takes=frozenset({"tools", "stop_token_ids"}),
    ) as running:
        for number, template, rendering in (
            (1, OWN, {"stop_ids": [7]}),
            (2, OTHER, {"stop_ids": [5, 9]}),
            (3, None, {}),
            (4, DATED, {"template_date": "2026-03-04"}),
            (5, HOSTILE, {}),
            (6, "{{ raise_exception('only users') }}", {}),
        ):
            folder = running.files.folder(f"sql@v{number}")
            if template is not None:
                (folder / "chat_template.jinja").write_text(template)
            (folder / "rendering.json").write_text(json.dumps(rendering))
        running.update(adapter("sql", 1, 2, 3, 4, 5, 6))
        yield running


def chat(served: Gateway, number: int, **fields: Any) -> httpx.Response:
    with served.client() as client:
        return client.post(CHAT, json={"model": f"sql@v{number}", "messages": MESSAGES, **fields}, timeout=60)


def tokens_of(base: Path, text: str) -> list[int]:
    from tokenizers import Tokenizer

    found: list[int] = Tokenizer.from_file(str(base / "tokenizer.json")).encode(text, add_special_tokens=False).ids
    return found


def test_the_engine_s_own_template_is_passed_on_with_the_version_s_stops(served: Gateway) -> None:
    assert chat(served, 1).status_code == 200
    body = served.bodies[-1]
    assert (body["path"], body["messages"], body["stop_token_ids"]) == (CHAT, MESSAGES, [7])
    assert chat(served, 3).status_code == 200
    assert served.bodies[-1]["path"] == CHAT
    assert "stop_token_ids" not in served.bodies[-1]


def test_a_plain_completion_ends_where_the_version_has_learnt_to_end(served: Gateway) -> None:
    with served.client() as client:
        assert client.post(COMPLETIONS, json={"model": "sql@v2", "prompt": "one"}).status_code == 200
    assert served.bodies[-1]["stop_token_ids"] == [5, 9]


@pytest.mark.parametrize("number", [1, 2])
def test_a_prompt_that_is_far_too_long_never_reaches_the_engine(served: Gateway, number: int) -> None:
    text, asked = "ab " * 600_000, len(served.bodies)
    answer = chat(served, number, messages=[{"role": "user", "content": text}])
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "messages")
    assert "more than 8,192 tokens" in answer.json()["error"]["message"]
    with served.client() as client:
        answer = client.post(COMPLETIONS, json={"model": f"sql@v{number}", "prompt": text})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "prompt")
    assert len(served.bodies) == asked
    # It may be left out by a template.
    thought = [{"role": "assistant", "content": text}, {"role": "user", "content": "one"}]
    assert chat(served, 1, messages=thought).status_code == 200


def test_another_template_is_rendered_and_answered_as_a_chat(served: Gateway, base: Path) -> None:
    answer = chat(served, 2, temperature=0)
    body = served.bodies[-1]
    eos = json.loads((base / "tokenizer_config.json").read_text())["eos_token"]
    assert (body["path"], body["stop_token_ids"], body["temperature"]) == (COMPLETIONS, [5, 9], 0.0)
    assert body["prompt"] == tokens_of(base, f"{eos}[user] one\ntwo\n[assistant] ")
    assert body["max_tokens"] == 4096 - len(body["prompt"])
    assert "messages" not in body
    document = answer.json()
    assert (document["object"], document["model"]) == ("chat.completion", "sql@v2")
    assert document["choices"][0]["message"] == {"role": "assistant", "content": "sql@v2 sql@v2 sql@v2"}
    assert document["usage"]["completion_tokens"] == 3


def test_a_rendered_chat_is_streamed_as_a_chat(served: Gateway) -> None:
    lines = [line for line in chat(served, 2, stream=True, max_tokens=3).text.splitlines() if line]
    assert lines.pop() == "data: [DONE]"
    events = [json.loads(line.removeprefix("data: ")) for line in lines]
    assert {event["object"] for event in events} == {"chat.completion.chunk"}
    assert {event["model"] for event in events} == {"sql@v2"}
    assert events[0]["choices"][0]["delta"]["role"] == "assistant"
    assert "".join(event["choices"][0]["delta"]["content"] for event in events).split() == ["sql@v2"] * 3
    assert events[-1]["choices"][0]["finish_reason"] == "stop"


def test_a_template_writes_the_day_of_its_training(served: Gateway, base: Path) -> None:
    chat(served, 4)
    assert served.bodies[-1]["prompt"] == tokens_of(base, "04 Mar 2026\n<user>one\ntwo<assistant>")


def test_tools_are_refused_where_the_engine_can_t_read_them(served: Gateway) -> None:
    tools = [{"type": "function", "function": {"name": "look"}}]
    assert chat(served, 1, tools=tools).status_code == 200
    refused = chat(served, 2, tools=tools)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "tools")
    assert "another chat template" in refused.json()["error"]["message"]


def test_a_template_that_takes_too_long_or_refuses_ends_its_own_request_alone(served: Gateway) -> None:
    hostile = chat(served, 5)
    assert (hostile.status_code, hostile.json()["error"]["param"]) == (400, "messages")
    assert "only users" in chat(served, 6).json()["error"]["message"]
    assert chat(served, 2).status_code == 200


def test_a_rendering_that_does_not_come_in_time_ends_with_its_process() -> None:
    async def main() -> None:
        renderers = Renderers(rendered_s=0.5)
        asked = [{"role": "user", "content": "one"}]
        given = {"template": HOSTILE, "messages": asked, "special_tokens": {}, "day": "2026-12-01"}
        rendering = asyncio.create_task(renderers.render("sql@v1", **given))
        while (child := renderers._process("sql@v1")._child) is None:
            await asyncio.sleep(0.01)
        with pytest.raises(Declined, match="takes too much to render"):
            await rendering
        assert await child.wait() == -signal.SIGKILL

    asyncio.run(main())


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("chat_template.jinja", b"\xff"),
        ("chat_template.jinja", b"a" * 2_000_000),
        ("rendering.json", b"{"),
        ("rendering.json", b'{"stop_ids": [-1]}'),
        ("generation_config.json", b"[" * 100_000),
    ],
)
def test_files_that_can_t_be_read_are_an_error(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError):  # noqa: PT011 - whichever it is, it becomes one sentence
        VersionFiles.of(tmp_path)


@pytest.mark.parametrize(
    ("path", "fields", "named"),
    [
        ("/v1/completions", {"prompt": "a", "echo": True, "logprobs": 1}, "echo"),
        (CHAT, {"messages": MESSAGES, "response_format": {"type": "json_object"}}, "response_format"),
    ],
)
def test_field_that_this_engine_lacks_never_reaches_it(
    served: Gateway, path: str, fields: dict[str, Any], named: str
) -> None:
    before = len(served.bodies)
    with served.client() as client:
        answer = client.post(path, json={"model": "sql@v1", **fields}, timeout=60)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, named)
    assert len(served.bodies) == before
