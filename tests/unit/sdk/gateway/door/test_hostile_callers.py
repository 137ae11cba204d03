"""Callers who mean no good: what they send is bounded in length, depth and time, and means one thing to all who read it."""

from __future__ import annotations

import json
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from support.gateways import KEY, Gateway, gateway
from support.waiting import wait_until

from sdk.gateway.door.keys import WrongKeys
from sdk.gateway.door.protocol import ConnectionLimits
from sdk.gateway.door.requests import MAX_BODY_BYTES
from sdk.schemas.access import GrantView
from sdk.schemas.serving import TokenStanding

PATH = "/v1/completions"
#: On a busy machine, callers who are to be answered take a while; those who are to be cut wait for it.
LIMITS = ConnectionLimits(head_s=120, slow_s=120, of_one_address=20)
HASTY = ConnectionLimits(head_s=0.5, slow_s=0.5, of_one_address=20)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with gateway(tmp_path_factory.mktemp("served"), pieces=20_000, limits=LIMITS) as running:
        yield running


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway that cuts slow callers soon."""
    with gateway(tmp_path_factory.mktemp("hasty"), pieces=20_000, limits=HASTY) as running:
        yield running


def connected(served: Gateway) -> socket.socket:
    found = socket.create_connection(("127.0.0.1", served.port), 30)
    found.settimeout(30)
    return found


def head(**more: str) -> bytes:
    headers = {"Host": "localhost", "Authorization": f"Bearer {KEY}", "Content-Type": "application/json", **more}
    return "".join(
        [
            "POST /v1/completions HTTP/1.1\r\n",
            *(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items()),
        ]
    ).encode()


def answered(served: Gateway, sent: bytes) -> bytes:
    """Return all that comes until the connection is closed."""
    with connected(served) as connection:
        connection.sendall(sent)
        found = b""
        try:
            while piece := connection.recv(65536):
                found += piece
        except ConnectionError:
            pass
    return found


BODY = json.dumps({"model": "sql@v1", "prompt": "a"}).encode()
SECOND = head(Content_Length=str(len(BODY))) + b"\r\n" + BODY


@pytest.mark.parametrize(
    "sent",
    [
        head(Content_Length="3", Transfer_Encoding="chunked") + b"\r\n0\r\n\r\n" + SECOND,
        head(Content_Length="0") + b"Content-Length: 40\r\n\r\n" + SECOND,
        head(Transfer_Encoding="xchunked") + b"\r\n0\r\n\r\n" + SECOND,
        head(Transfer_Encoding="chunked, identity") + b"\r\n0\r\n\r\n" + SECOND,
        head() + b"Content-Length : 0\r\n\r\n" + SECOND,
        head() + b"X: a\r\n Content-Length: 0\r\n\r\n" + SECOND,
        head(Content_Length="+0") + b"\r\n" + SECOND,
        head(Content_Length="-1") + b"\r\n" + SECOND,
        head(Content_Length="99999999999999999999999") + b"\r\n" + SECOND,
        head() + b"X: a\rContent-Length: 0\r\n\r\n" + SECOND,
        head() + b"X: a\0b\r\n\r\n" + SECOND,
        head(Transfer_Encoding="chunked") + b"\r\n0x1\r\na\r\n0\r\n\r\n" + SECOND,
        b"POST http://evil.example/v1/completions HTTP/1.1\r\n" + SECOND.partition(b"\r\n")[2],
        b"CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST /v1/completions HTTP/3.0\r\n" + SECOND.partition(b"\r\n")[2],
        b"\x16\x03\x01\x02\x00\x01\x00",
    ],
)
def test_a_request_with_two_meanings_reaches_no_engine(served: Gateway, sent: bytes) -> None:
    before = len(served.bodies)
    answer = answered(served, sent)
    # What is wrong behind the head is seen too late for an answer.
    assert not answer or answer.startswith(b"HTTP/1.1 400 ")
    assert len(served.bodies) == before


@pytest.mark.parametrize("name", ["Authorization", "Host", "Content-Type"])
def test_a_header_that_counts_comes_once(served: Gateway, name: str) -> None:
    again = {"Authorization": f"Bearer {KEY}", "Host": "localhost", "Content-Type": "application/json"}[name]
    sent = head(Content_Length=str(len(BODY)), Connection="close") + f"{name}: {again}\r\n\r\n".encode() + BODY
    status = answered(served, sent).split(b" ")[1]
    assert status == (b"421" if name == "Host" else b"400")


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        head() + b"".join(b"X-%d: a\r\n" % number for number in range(200)) + b"\r\n",
        head() + b"X: " + b"a" * 1_000_000 + b"\r\n\r\n",
    ],
)
def test_a_head_beyond_the_limits_is_refused_and_cut(served: Gateway, sent: bytes) -> None:
    began = time.monotonic()
    assert b"200 OK" not in answered(served, sent)
    assert time.monotonic() - began < 40


def test_a_head_that_comes_too_slowly_is_cut(hasty: Gateway) -> None:
    with connected(hasty) as connection:
        connection.sendall(b"POST /v1/comp")
        assert connection.recv(1000) == b""


def test_a_reader_who_fetches_nothing_is_cut_and_the_engine_s_work_ends(hasty: Gateway) -> None:
    body = json.dumps({"model": "sql", "prompt": "a", "stream": True}).encode()
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", hasty.port))
        connection.sendall(head(Content_Length=str(len(body))) + b"\r\n" + body)
        # It may have been cut before anybody looks.
        wait_until(lambda: len(hasty.bodies) == 1)
        wait_until(lambda: not any(each.running for each in hasty.do(hasty.moves.state)))


def test_an_address_has_so_many_connections_and_gets_more_when_some_end(served: Gateway) -> None:
    held = [connected(served) for _ in range(LIMITS.of_one_address)]
    try:

        def is_refused() -> bool:
            with connected(served) as connection:
                connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                try:
                    return connection.recv(1000) == b""
                except ConnectionError:
                    return True

        assert is_refused()
    finally:
        for each in held:
            each.close()
    wait_until(lambda: httpx.get(f"{served.url}/healthz").status_code == 200)


def test_a_body_that_is_too_long_is_refused_before_it_has_come(served: Gateway) -> None:
    with served.client() as client:
        long = client.post(PATH, content=b" " * (MAX_BODY_BYTES + 1), headers={"Content-Type": "application/json"})
        assert long.status_code == 413
        pieces = client.post(PATH, content=iter([b" " * 65536] * 33), headers={"Content-Type": "application/json"})
        assert pieces.status_code == 413
    assert answered(served, head(Content_Length=str(10**12)) + b"\r\n").startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    "body",
    [
        b"[" * MAX_BODY_BYTES,
        b'{"a":' * 300_000,
        b'{"model":"sql","prompt":' + b"[" * 1000 + b"1" + b"]" * 1000 + b"}",
        b'{"model":"sql","prompt":"a","seed":' + b"9" * 1_900_000 + b"}",
        b'{"model":"sql","prompt":[' + b"1," * 900_000 + b"1]}",
        b"{" + b",".join(b'"f%d":1' % number for number in range(140_000)) + b"}",
        b'{"model":"sql","prompt":[' + b'"a",' * 140_000 + b"1]}",
        b'{"model":"sql","prompt":"a","temperature":NaN}',
        b'{"model":"sql","prompt":"\\ud800"}',
        b'{"model":"sql","prompt":"\xff"}',
        b'{"model":"sql","prompt":"a"} {"model":"sql"}',
        b'\xef\xbb\xbf{"model":"sql","prompt":"a"}',
        b'{"model":"sql","prompt":"a","temperature":1e999}',
        b'{"model":"sql","prompt":"a","max_tokens":true}',
        b'{"model":"sql","prompt":"a","max_tokens":99999999999}',
        b'{"model":"sql","prompt":[-1]}',
        b'{"model":"sql","prompt":"a","stop":["' + b'","'.join([b"a"] * 17) + b'"]}',
        b"",
        b"null",
        b'"sql"',
    ],
)
def test_a_strange_body_is_refused_in_time_and_memory_that_grow_with_its_length(served: Gateway, body: bytes) -> None:
    before, memory = len(served.bodies), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    with served.client() as client:
        answer = client.post(PATH, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert len(answer.content) < 2000
    assert time.process_time() - began < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 200 * 1024
    assert len(served.bodies) == before


def test_other_methods_and_paths_are_refused(served: Gateway) -> None:
    with served.client() as client:
        assert client.get(PATH).status_code == 405
        assert client.put("/v1/models").status_code == 405
        for path in (
            "/",
            "/load",
            "/release",
            "/v1/load_lora_adapter",
            "/adapters",
            "/v1/../load",
            "/v1/completions/",
            "//v1/models",
            "/metrics",
        ):
            assert client.post(path, json={"name": "x"}).status_code == 404


def test_wrong_keys_are_limited_by_client_and_right_ones_are_not(tmp_path: Path) -> None:
    now = [0.0]
    asked: list[str] = []

    def ask(sha256: str) -> TokenStanding:
        asked.append(sha256)
        return TokenStanding(grants=[], valid_for_s=5.0)

    with gateway(tmp_path, ask=ask, wrong=WrongKeys(clock=lambda: now[0])) as served, served.client() as client:
        wrong = [
            httpx.get(f"{served.url}/v1/models", headers={"Authorization": f"Bearer wrong-{number}"}).status_code
            for number in range(30)
        ]
        assert wrong == [401] * 20 + [429] * 10
        assert len(asked) == 20
        assert client.get("/v1/models").status_code == 200
        now[0] += 2.0
        assert httpx.get(f"{served.url}/v1/models", headers={"Authorization": "Bearer wrong"}).status_code == 401


def test_the_holder_of_a_token_sees_the_namespaces_that_it_may_read(tmp_path: Path) -> None:
    def ask(_sha256: str) -> TokenStanding:
        return TokenStanding(grants=[GrantView(namespace="team", role="reader")], valid_for_s=5.0)

    with gateway(tmp_path, ask=ask) as served, served.client(Authorization="Bearer a-token") as client:
        assert {each["id"] for each in client.get("/v1/models").json()["data"]} == {
            "base:tiny",
            "team/sql",
            "team/sql@v1",
        }
        assert client.post(PATH, json={"model": "team/sql", "prompt": "a", "max_tokens": 1}).status_code == 200
        hidden = client.post(PATH, json={"model": "sql", "prompt": "a"})
        absent = client.post(PATH, json={"model": "team/none", "prompt": "a"})
    assert hidden.status_code == absent.status_code == 404
    assert hidden.text.replace("'sql'", "X") == absent.text.replace("'team/none'", "X")


@pytest.mark.parametrize("how", ["slow bodies", "endless streams"])
def test_one_key_does_not_take_all_places(tmp_path: Path, how: str) -> None:
    def ask(_sha256: str) -> TokenStanding:
        return TokenStanding(grants=[GrantView(namespace="team", role="reader")], valid_for_s=5.0)

    body = json.dumps({"model": "team/sql", "prompt": "a", "stream": True}).encode()
    sent = head(Content_Length=str(len(body)), Authorization="Bearer greedy") + b"\r\n" + body
    with gateway(tmp_path, ask=ask, pieces=20_000, every_s=0.01, most_running=8) as served, ExitStack() as held:

        def status(key: str) -> int:
            with served.client(Authorization=f"Bearer {key}") as client:
                return int(client.post(PATH, json={"model": "team/sql", "prompt": "a"}).status_code)

        for _ in range(12):
            connection = held.enter_context(connected(served))
            connection.sendall(sent if how == "endless streams" else sent[:-1])
        wait_until(lambda: status("greedy") == 429)
        assert [status(key) for key in ("modest", KEY)] == [200, 200]
        held.close()
        wait_until(lambda: status("greedy") == 200)
