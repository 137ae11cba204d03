"""Bytes that no client sends, against a real server: what it answers, how long others wait, what memory it takes.

Each case has its number as seed, so that one that fails can be had again. A soak runs twenty times as many.
"""

from __future__ import annotations

import itertools
import json
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field

import pytest
from support.soak import SOAKING, scale
from support.wire import Line, Served, serving

#: Cases of a soak; each is one connection.
CASES = 8_000
#: Above what it is at rest, in bytes.
MOST_MEMORY_BYTES = 256 * 1024 * 1024
#: How long another client may wait for `/healthz`, in seconds.
MOST_HEALTH_S = 1.0
#: Beyond every limit of time that the server has here, in seconds.
NEVER_S = 15.0

# Who waits how long is what is looked at, so nothing else may take the machine meanwhile.
pytestmark = pytest.mark.alone

HEALTHZ = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(
        tmp_path_factory.mktemp("fuzz"),
        bounds={"head_s": 2, "grace_s": 2, "least_bytes_per_s": 100_000, "idle_s": 2},
        failed_logins_per_minute="100000",
    ) as found:
        # What is imported and prepared with the first requests is not what an attack takes.
        for path in ("/api/v1/bases", "/api/v1/jobs", "/metrics", "/docs", "/openapi.json"):
            found.ask("GET", path)
        found.ask("POST", "/api/v1/bases", json={})
        found.ask("POST", "/api/v1/versions", json={"unknown": [0] * 40_000})
        yield found


@dataclass
class Watch:
    """What another client and the system saw meanwhile."""

    health_s: list[float] = field(default_factory=list)
    memory_bytes: list[int] = field(default_factory=list)


@contextmanager
def watching(served: Served) -> Iterator[Watch]:
    """Ask for `/healthz` from another address, and look at the server's memory, all the while."""
    watch, ended = Watch(), threading.Event()
    rest_bytes = served.resident_bytes()

    def look() -> None:
        while True:
            watch.memory_bytes.append(served.resident_bytes() - rest_bytes)
            delayed_s = served.delayed_s()
            took_s = served.healthy_s()
            # What other processes took of the machine meanwhile is not the server's doing.
            watch.health_s.append(took_s - (served.delayed_s() - delayed_s))
            if ended.wait(0.05):
                return

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield watch
    finally:
        ended.set()
        thread.join()
    watch.memory_bytes.append(served.resident_bytes() - rest_bytes)
    assert max(watch.memory_bytes) <= MOST_MEMORY_BYTES
    assert max(watch.health_s) <= MOST_HEALTH_S, f"{max(watch.health_s):.2f} s, the longest of {len(watch.health_s)}"


# --- single requests, made of pieces that are right or wrong
# -----------------------------------------------------------------


METHODS = (
    b"GET",
    b"POST",
    b"PUT",
    b"HEAD",
    b"OPTIONS",
    b"DELETE",
    b"PATCH",
    b"TRACE",
    b"CONNECT",
    b"PRI",
    b"get",
    b"G\x00T",
    b"",
)
TARGETS = (
    b"/healthz", b"/api/v1/bases", b"/api/v1/uploads", b"/api/v1/resolve?ref=a%00", b"/api/v1/resolve?ref=%ff%fe", b"/api/v1/jobs/%ED%A0%80",
    b"/api/v1/blobs/x", b"/metrics", b"*", b"http://other/healthz", b"http://[::1", b"//", b"/%", b"/%zz", b"/api/v1/../v1/bases",
    b"/\xff\xfe", b"/a b", b"", b"/api/v1/bases#x", b"/api/v1/search?q=" + b"(" * 2000, b"/?" + b"&" * 9000, b"/" + b"a/" * 4000, b"a:1",
)  # fmt: skip
VERSIONS = (
    b"HTTP/1.1",
    b"HTTP/1.0",
    b"HTTP/0.9",
    b"HTTP/2.0",
    b"HTTP/1.10",
    b"http/1.1",
    b"HTTP/11",
    b"HTTP/1.1 ",
    b"",
)
HEADERS = (
    b"Host: a", b"Host: 127.0.0.1\r\nHost: b", b"Connection: close", b"Connection: keep-alive, upgrade\r\nUpgrade: h2c", b"Upgrade: websocket",
    b"Content-Length: 5", b"Content-Length: 5\r\nContent-Length: 6", b"Content-Length: -1", b"Content-Length: +5", b"Content-Length: 0x5",
    b"Content-Length: 99999999999999999999999", b"Content-Length: 5, 5", b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding: chunked, identity", b"Transfer-Encoding:\x0bchunked", b"Transfer-Encoding : chunked", b"Transfer-Encoding: xchunked",
    b"Content-Type: application/json", b"Content-Type: application/json\xa0", b"Content-Type: text/xml", b"Expect: 100-continue",
    b"Expect: 200", b"Idempotency-Key: \xff", b"Idempotency-Key: a", b"Range: bytes=0-" + b"9" * 400, b"Cookie: " + b"a=b;" * 3000,
    b" folded", b"X: a\r\n folded", b"\x00: a", b"X\x00: a", b": a", b"X", b"X: " + b"\xff" * 200, b"X: a\nY: b", b"X: a\rY: b",
    b"Authorization: Basic YTpi", b"Authorization: Bearer \xff", b"Last-Event-ID: 99999999999999999999", b"X-Forwarded-For: " + b"1," * 2000,
)  # fmt: skip
BODIES = (
    b"", b"{}", b'{"a":1}', b"\xff\xfe", b"5\r\n{\"a\":\r\n0\r\n\r\n", b"ffffffffffffffffff\r\n", b"-1\r\n", b"5;ext=" + b"a" * 3000 + b"\r\nhello\r\n0\r\n\r\n",
    b"0\r\nX: a\r\nContent-Length: 3\r\n\r\n", b"0\r\n\r\n" + HEALTHZ, HEALTHZ, b"\r\n" * 2000, b"\x00" * 5000, b"GET /", b"5\r\nhello0\r\n\r\n",
)  # fmt: skip


def request(rng: random.Random, token: str) -> bytes:
    """One request: half of them right but for one thing or two, the others as wrong as it comes."""
    wrong = rng.choice((0.03, 0.3))

    def one(choices: tuple[bytes, ...], right: tuple[bytes, ...]) -> bytes:
        return rng.choice(choices if rng.random() < wrong else right)

    method = one(METHODS, (b"POST", b"POST", b"GET", b"PUT", b"DELETE"))
    target = one(
        TARGETS, (b"/api/v1/uploads", b"/api/v1/bases", b"/api/v1/resolve?ref=a", b"/healthz", b"/metrics", b"/none")
    )
    lines = [b" ".join((method, target, one(VERSIONS, (b"HTTP/1.1",))))]
    lines += [b"Host: 127.0.0.1", one(HEADERS, (b"Content-Type: application/json",)), one(HEADERS, (b"Accept: */*",))]
    if rng.random() < 0.7:
        lines.append(b"Authorization: Bearer " + token.encode())
    body = one(BODIES, (b"{}", b'{"blobs":[]}', b'{"a":1,"a":2}', b""))
    if rng.random() < 0.9:
        lines.append(b"Content-Length: %d" % len(body))
    end = one((b"\n", b"\r"), (b"\r\n",))
    raw = end.join(lines) + end * 2 + body
    for _ in range(rng.choice((1, 3, 20)) if rng.random() < wrong else 0):
        at = rng.randrange(len(raw) + 1)
        added, cut, again = (
            raw[:at] + rng.randbytes(rng.randint(1, 9)) + raw[at:],
            raw[:at] + raw[at + 1 :],
            raw[:at] + raw[:at][-40:] + raw[at:],
        )
        raw = rng.choice((added, cut, again))
    return raw


def noise(rng: random.Random, _token: str) -> bytes:
    """Bytes without a plan."""
    return rng.randbytes(rng.choice((1, 10, 1000, 100_000)))


def pipeline(rng: random.Random, token: str) -> bytes:
    """Several requests at once."""
    return b"".join(rng.choice((HEALTHZ, request(rng, token))) for _ in range(rng.randint(2, 30)))


def play(served: Served, seed: int) -> list[int]:
    """Send one case in pieces, read what comes, and return the statuses of the answers."""
    rng = random.Random(seed)
    raw = rng.choices((request, noise, pipeline), (8, 1, 2))[0](rng, served.token)
    came = b""
    began = time.monotonic()
    line = Line(served.port, source=f"127.0.0.{rng.randint(50, 250)}", timeout_s=NEVER_S)
    with line, suppress(OSError):
        cuts = sorted(rng.randrange(len(raw) + 1) for _ in range(rng.choice((0, 0, 0, 1, 4))))
        for start, stop in zip([0, *cuts], [*cuts, len(raw)], strict=True):
            line.send(raw[start:stop])
        if rng.random() < 0.9:
            # Most clients give up after a moment, so that not every case waits for the server's patience.
            line.socket.settimeout(0.2)
            with suppress(TimeoutError):
                while data := line.socket.recv(65_536):
                    came += data
            line.socket.settimeout(NEVER_S)
            line.socket.shutdown(socket.SHUT_WR)
        while data := line.socket.recv(65_536):
            came += data
    assert time.monotonic() - began < NEVER_S
    return [int(part[:3]) for part in came.split(b"HTTP/1.1 ")[1:] if part[:3].isdigit()]


def test_nothing_that_is_sent_is_a_fault_of_the_server_or_keeps_others_waiting(served: Served) -> None:
    number = scale(CASES)
    first = random.SystemRandom().randrange(10**9) if SOAKING else 1
    statuses: dict[int, list[int]] = {}
    with watching(served), ThreadPoolExecutor(16) as pool:
        for seed, found in zip(
            range(first, first + number),
            pool.map(lambda seed: play(served, seed), range(first, first + number)),
            strict=True,
        ):
            statuses[seed] = found
    faults = {seed: found for seed, found in statuses.items() if any(status >= 500 for status in found)}
    assert not faults, "seeds and their statuses"
    # The cases reach what they are for.
    seen = {status for found in statuses.values() for status in found}
    assert {200, 400, 401, 404, 405, 415, 422} <= seen
    assert "Traceback" not in served.log.read_text()


@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked\r\nContent-Length: 5",
        b"Content-Length: 5\r\nContent-Length: 6",
        b"Content-Length: 5\r\nContent-Length: 5",
        b"Content-Length: 5, 5",
        b"Content-Length: +5",
        b"Content-Length: 0x5",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        b"Transfer-Encoding: xchunked",
        b"Transfer-Encoding: chunked, gzip",
        b"Transfer-Encoding : chunked",
        b"Transfer-Encoding: \x0bchunked",
        b"X: a\nTransfer-Encoding: chunked",
    ],
)
def test_two_ways_to_read_where_a_request_ends_are_none(served: Served, headers: bytes) -> None:
    """Whoever stands before the server may read the other one: then what follows is another client's request."""
    with served.line() as line:
        line.send(b"POST /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n" + headers + b"\r\n\r\n0\r\n\r\n" + HEALTHZ)
        answers = []
        while (answer := line.answer()) is not None:
            answers.append(answer.status)
        # Refused, and the connection ended; or answered, and nothing after it was taken for a request.
        assert 200 not in answers
        assert len(answers) <= 1


# --- many connections -----------------------------------------------------------------------------------------------------


def test_half_sent_requests_and_long_headers_of_nobody_take_little_and_end(served: Served) -> None:
    with ExitStack() as stack, watching(served):
        lines = [
            stack.enter_context(Line(served.port, source=f"127.0.0.{50 + number % 4}"))
            for number in range(scale(4_000))
        ]
        for number, line in enumerate(lines):
            with suppress(ConnectionError):
                line.send(
                    (b"GET / HTTP/1.1\r\nX: " + b"a" * 30_000, b"GET / HTTP/1.1\r\nX: " + b"a" * 250_000, b"GET")[
                        number % 3
                    ]
                )
        for line in lines:
            assert line.ends()


def test_bodies_of_one_token_that_do_not_end_are_bounded(served: Served) -> None:
    with ExitStack() as stack, watching(served):
        lines = [
            stack.enter_context(Line(served.port, source=f"127.0.0.{60 + number % 4}"))
            for number in range(max(40, scale(400)))
        ]
        for line in lines:
            with suppress(ConnectionError):
                line.send(
                    b"POST /api/v1/versions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 900000\r\n"
                    b"Authorization: Bearer " + served.token.encode() + b"\r\n\r\n" + b"[" * 100_000
                )
        for line in lines:
            assert line.ends()


# --- time and memory by size ------------------------------------------------------------------------------------------------

#: What a hostile body of about so many bytes is made of, and where it is sent.
HOSTILE: dict[str, tuple[str, Callable[[int], str]]] = {
    "many faults": ("versions", lambda size: '{"unknown":[' + "0," * (size // 2) + "0]}"),
    "many fields": ("versions", lambda size: "{" + "".join(f'"{n}":0,' for n in range(size // 9)) + '"x":0}'),
    "a key twice": ("bases", lambda size: "{" + '"k":0,' * (size // 6) + '"k":0}'),
    "keys that all differ, but one": ("bases", lambda size: "{" + "".join(f'"{n}":0,' for n in range(size // 9)) + '"0":0}'),
    "empty objects": ("uploads", lambda size: '{"blobs":[' + "{}," * (size // 3) + "{}]}"),
    "digits": ("bases", lambda size: "[" + "9" * size + "]"),
    "brackets": ("bases", lambda size: "[" * size),
    "escapes": ("bases", lambda size: '{"id":"' + "\\u0041" * (size // 6) + '"}'),
    "one long text": ("bases", lambda size: '{"id":"' + "a/" * (size // 2) + '"}'),
    "wide text": ("bases", lambda size: '{"id":"\U0001f600' + "a" * size + '"}'),
    "free dictionaries": ("bases", lambda size: _base(config=json.loads("[" + "[]," * (size // 3) + "[]]"))),
    "shapes": ("bases", lambda size: _base(tensors={f"{n}": [1, 1] for n in range(size // 16)})),
    "paths": ("versions", lambda size: _publication(size)),
    "patterns": ("versions", lambda size: _publication(200, modules=[f"m{n}" for n in range(size // 10)])),
    "samples": ("jobs/nobody/complete", lambda size: _completion(size)),
    "metrics": ("jobs/nobody/complete", lambda size: _completion(200, metrics={f"m{n}": 1.0 for n in range(size // 13)})),
    "lines": ("jobs/nobody/heartbeat", lambda size: _heartbeat(size)),
}  # fmt: skip


def _base(config: object = None, tensors: object = None) -> str:
    facts = {"fingerprint": "a" * 64, "weights_digest": "b" * 64, "architecture": "x"}
    return json.dumps({"id": "x", **facts, "config": {"a": config}, "tensors": tensors or {}}, separators=(",", ":"))


def _completion(size: int, metrics: object = None) -> str:
    samples = [{"prompt": "a" * 2000, "reference": "b" * 500, "completion": "\U0001f600" * 500}] * max(1, size // 5000)
    report = {"metrics": metrics or {"loss": 1.0}, "precision": "bfloat16", "samples": samples}
    scored = {"label": "x/y@v1", "digest": None, "base_fingerprint": "a" * 64, "report": report}
    return json.dumps({"attempt": 1, "evaluations": [scored]}, ensure_ascii=False)


def _heartbeat(size: int) -> str:
    return json.dumps({"attempt": 1, "events": [{"kind": "log", "message": "a" * 3000}] * max(1, size // 3040)})


def _publication(size: int, modules: list[str] | None = None) -> str:
    files = [{"path": f"{'a/' * 15}{n}", "size_bytes": 1, "sha256": "a" * 64} for n in range(max(1, size // 140))]
    lora = {"rank": 1, "alpha": 1.0, "target_modules": modules or ["a"]}
    return json.dumps({"adapter": "x/y", "manifest": {"base_fingerprint": "a" * 64, "files": files}, "lora": lora})


@pytest.mark.parametrize("name", HOSTILE)
def test_a_body_of_any_size_takes_time_with_its_length_and_keeps_nobody_waiting(served: Served, name: str) -> None:
    """Twice the size until it is refused for its size: the time may double, and not quadruple, again and again."""
    path, make = HOSTILE[name]
    took_s: list[float] = []
    answers: list[int] = []
    size = 2**16 if SOAKING else 2**18
    while size <= 2**24 and 413 not in answers:
        # Made before anybody looks: it takes the time of this process, in which they look.
        body = make(size).encode()
        with watching(served), ThreadPoolExecutor(2) as pool:
            began = time.monotonic()
            # Two at once, as whoever means harm sends them.
            answers = list(pool.map(lambda _, sent=body: post(served, path, sent), range(2)))
            took_s.append(time.monotonic() - began)
        assert set(answers) <= {201, 404, 409, 413, 422, 429}, answers
        size *= 2
    assert 413 in answers
    assert all(later < max(4 * earlier, 1.5) for earlier, later in itertools.pairwise(took_s)), took_s


def post(served: Served, path: str, body: bytes) -> int:
    """Send a body; return the status."""
    with served.line(source="127.0.0.7") as line:
        with suppress(ConnectionError):
            line.send(
                f"POST /api/v1/{path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                f"Authorization: Bearer {served.token}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
                + body
            )
        answer = line.answer()
        assert answer is not None
        return answer.status
