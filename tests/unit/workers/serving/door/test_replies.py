"""How answers are sent: whole characters, nothing after a stop text, and nothing for a client that is gone or too slow."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support import tiny
from support.serving_engines import PlayedLoop, answering, plays
from support.waiting import wait_until

from workers.pipelines.data.tokenizer import load_tokenizer
from workers.serving.decoding.requests import Ended, EndReason, Token
from workers.serving.door.replies import ReplyLimits
from workers.serving.texts.texts import BROKEN

ASKED = {"model": "base", "messages": [{"role": "user", "content": "two"}], "max_tokens": 100}
PROMPTED = {"model": "base", "prompt": "two", "max_tokens": 100}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_llama(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def tokenizer(base: Path) -> Any:
    return load_tokenizer(base)


def ids_of(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def events(response: httpx.Response) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def content(chunks: list[dict[str, Any]]) -> list[str]:
    return [choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"]]


def test_no_chunk_has_half_a_character(base: Path, tokenizer: Any, tmp_path: Path) -> None:
    ids = ids_of(tokenizer, "a€😀b")
    assert len(ids) > 6
    with answering(base, PlayedLoop(plays(ids)), tmp_path) as engine:
        chunks = events(engine.post("/v1/chat/completions", **ASKED, stream=True))
        whole = engine.post("/v1/chat/completions", **ASKED).json()
    assert "".join(content(chunks)) == "a€😀b" == whole["choices"][0]["message"]["content"]
    assert not any(BROKEN in piece for piece in content(chunks))
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


def test_nothing_comes_after_a_stop_text_over_several_tokens(base: Path, tokenizer: Any, tmp_path: Path) -> None:
    ids = ids_of(tokenizer, "one two three four")
    before = len(ids_of(tokenizer, "one two thr"))
    assert len(ids_of(tokenizer, "two thr")) > 1
    loop = PlayedLoop(plays(ids))
    with answering(base, loop, tmp_path) as engine:
        chunks = events(engine.post("/v1/chat/completions", **ASKED, stream=True, stop=["two thr", "four"]))
        whole = engine.post("/v1/completions", **PROMPTED, stop="two thr").json()
    assert "".join(content(chunks)) == "one " == whole["choices"][0]["text"]
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop" == whole["choices"][0]["finish_reason"]
    # Those of the stop text were generated; the loop's further ones were nobody's.
    assert whole["usage"]["completion_tokens"] == before
    assert all(question.cancelled.is_set() for question in loop.questions)


def test_beginning_of_a_stop_text_at_the_end_is_content(base: Path, tokenizer: Any, tmp_path: Path) -> None:
    loop = PlayedLoop(plays(ids_of(tokenizer, "one two"), Ended(EndReason.LENGTH)))
    with answering(base, loop, tmp_path) as engine:
        whole = engine.post("/v1/completions", **PROMPTED, stop="two three").json()
    assert whole["choices"][0]["text"] == "one two"
    assert whole["choices"][0]["finish_reason"] == "length"


def test_usage_counts_each_generated_token_with_the_one_that_ended_the_answer(
    base: Path, tokenizer: Any, tmp_path: Path
) -> None:
    ids = ids_of(tokenizer, "one two")
    prompt = len(load_tokenizer(base)("two")["input_ids"])
    for reason, more in ((EndReason.STOP, 1), (EndReason.LENGTH, 0)):
        (folder := tmp_path / reason).mkdir()
        with answering(base, PlayedLoop(plays(ids, Ended(reason))), folder) as engine:
            whole = engine.post("/v1/completions", **PROMPTED).json()
            chunks = events(
                engine.post("/v1/completions", **PROMPTED, stream=True, stream_options={"include_usage": True})
            )
        total = prompt + len(ids) + more
        usage = {"prompt_tokens": prompt, "completion_tokens": len(ids) + more, "total_tokens": total}
        assert whole["usage"] == usage == chunks[-1]["usage"]
        assert chunks[-1]["choices"] == []
        assert all(chunk["usage"] is None for chunk in chunks[:-1])


def test_reasoning_is_apart(base: Path, tokenizer: Any, tmp_path: Path) -> None:
    with answering(base, PlayedLoop(plays(ids_of(tokenizer, "<think>\nso\n</think>\n\nfour"))), tmp_path) as engine:
        chunks = events(engine.post("/v1/chat/completions", **ASKED, stream=True))
        message = engine.post("/v1/chat/completions", **ASKED).json()["choices"][0]["message"]
        raw = engine.post("/v1/chat/completions", **ASKED, raw=True).json()["choices"][0]["message"]
    assert message == {"role": "assistant", "content": "four", "reasoning_content": "so"}
    reasonings = [choice["delta"].get("reasoning_content", "") for chunk in chunks for choice in chunk["choices"]]
    assert ("".join(reasonings), "".join(content(chunks))) == ("so", "four")
    assert raw == {"role": "assistant", "content": "<think>\nso\n</think>\n\nfour"}


def test_failure_in_a_stream_is_an_error_and_no_end(base: Path, tokenizer: Any, tmp_path: Path) -> None:
    failed = Ended(EndReason.FAILED, "memory ran out; ask again later")
    with answering(base, PlayedLoop(plays(ids_of(tokenizer, "one"), failed)), tmp_path) as engine:
        text = engine.post("/v1/chat/completions", **ASKED, stream=True).text
        whole = engine.post("/v1/chat/completions", **ASKED)
        import openai

        with engine.openai() as client, pytest.raises(openai.APIError, match="memory ran out"):
            list(client.chat.completions.create(**ASKED, stream=True))
    assert "memory ran out" in text
    assert "[DONE]" not in text
    assert '"finish_reason":"' not in text
    assert (whole.status_code, whole.json()["error"]["code"]) == (500, "failed")


def test_answer_that_was_cancelled_is_no_whole_answer(base: Path, tokenizer: Any, tmp_path: Path) -> None:
    loop = PlayedLoop(plays(ids_of(tokenizer, "one two"), Ended(EndReason.CANCELLED)))
    with answering(base, loop, tmp_path) as engine:
        assert engine.post("/v1/chat/completions", **ASKED).status_code == 500
        assert "[DONE]" not in engine.post("/v1/chat/completions", **ASKED, stream=True).text


@pytest.mark.parametrize("streams", [False, True])
def test_answer_ends_with_its_client(base: Path, tokenizer: Any, tmp_path: Path, streams: bool) -> None:
    (token, *_) = ids_of(tokenizer, "one")
    goes_on = threading.Event()

    def endless() -> Iterator[Token]:
        while True:
            yield Token(token, None)
            goes_on.wait(0.005)

    loop = PlayedLoop(endless)
    with answering(base, loop, tmp_path) as engine:
        with connected(engine.socket, {**ASKED, "stream": streams}) as client:
            if streams:
                assert client.recv(64)
            wait_until(lambda: loop.questions and loop.questions[0].sent > 5)
            assert not loop.questions[0].cancelled.is_set()
        assert loop.questions[0].cancelled.wait(5)
        wait_until(lambda: not engine.activity.running)


def paced(token: int, count: int, then: threading.Event) -> Iterator[Token]:
    """Tokens as a decode loop makes them, and then none until something happens."""
    for _ in range(count):
        yield Token(token, -0.5, ((token, -0.5),) * 20)
        time.sleep(0.0005)
    then.wait(60)


#: Each of its tokens takes about a kilobyte.
WITH_LOGPROBS = {**ASKED, "stream": True, "logprobs": True, "top_logprobs": 20}


def test_client_that_reads_nothing_is_not_waited_for_with_a_growing_buffer(
    base: Path, tokenizer: Any, tmp_path: Path
) -> None:
    (token, *_) = ids_of(tokenizer, "one")
    ends = threading.Event()
    loop = PlayedLoop(lambda: paced(token, 2000, ends))
    with answering(base, loop, tmp_path, limits=ReplyLimits(most_waiting=256)) as engine:
        with connected(engine.socket, WITH_LOGPROBS) as client:
            assert wait_until(lambda: loop.questions)[0].cancelled.wait(20)
            wait_until(lambda: not engine.activity.running)
            text = b"".join(iter(lambda: client.recv(65536), b""))
        # What was sent until then comes, and the last chunk of the body doesn't.
        assert text.startswith(b"HTTP/1.1 200")
        assert b"[DONE]" not in text
        assert not text.endswith(b"0\r\n\r\n")
        with connected(engine.socket, WITH_LOGPROBS) as client:
            read = b""
            while read.count(b'"top_logprobs"') < 2000 and (data := client.recv(65536)):
                read += data
            assert not loop.questions[1].cancelled.is_set()
        ends.set()


def test_client_that_reads_nothing_does_not_hold_an_answer_for_ever(base: Path, tokenizer: Any, tmp_path: Path) -> None:
    (token, *_) = ids_of(tokenizer, "one")
    ends = threading.Event()
    loop = PlayedLoop(lambda: paced(token, 2000, ends))
    limits = ReplyLimits(most_waiting=100_000, stalled_s=0.5)
    with answering(base, loop, tmp_path, limits=limits) as engine, connected(engine.socket, WITH_LOGPROBS):
        assert wait_until(lambda: loop.questions)[0].cancelled.wait(20)
        wait_until(lambda: not engine.activity.running)
        ends.set()


def connected(path: Path, body: dict[str, Any]) -> socket.socket:
    """A client that has asked, and reads by itself."""
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(path))
    data = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: engine\r\ncontent-length: {len(data)}\r\n\r\n"
    client.sendall(head.encode() + data)
    return client
