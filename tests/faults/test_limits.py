"""What one server takes from the network: heads, bodies, times, connections. Each limit is met by a real server."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest
from support.wire import Answer, Line, Served, serving

from registry.access.tokens import Tokens
from registry.door.request_bodies import RAW_BYTES
from registry.http.bodies import LONGEST_BODY_BYTES
from registry.principal import SYSTEM, Role

HEAD_S = 1.0
HEALTHZ = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(
        tmp_path_factory.mktemp("limits"),
        max_connections="40",
        max_connections_per_address="12",
        bounds={"head_s": HEAD_S, "grace_s": 1, "least_bytes_per_s": 1000, "idle_s": 2},
    ) as found:
        yield found


@pytest.fixture
def line(served: Served) -> Iterator[Line]:
    with served.line() as found:
        yield found


def test_plain_requests_are_answered_one_after_the_other(line: Line) -> None:
    for _ in range(3):
        line.send(HEALTHZ)
        answer = line.answer()
        assert answer is not None
        assert answer.status == 200


class TestHeads:
    @pytest.mark.parametrize(
        ("head", "status", "code"),
        [
            (b"GET /healthz?" + b"a" * 17_000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 414, "too_large"),
            (b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"a" * 33_000 + b"\r\n\r\n", 431, "too_large"),
            (b"GET /healthz HTTP/1.1\r\n" + b"X: a\r\n" * 101 + b"\r\n", 431, "too_large"),
            (b"GET /healthz HTTP/1.1\r\n" + b"X: a\r\n" * 100 + b"\r\n", 200, None),
            # Not whole, and already too long.
            (b"GET /healthz HTTP/1.1\r\nX: " + b"a" * 200_000, 431, "too_large"),
            (b"GET /" + b"a" * 200_000, 414, "too_large"),
            (b"hello\r\n\r\n", 400, "invalid"),
            (b"GET /healthz\r\n\r\n", 400, "invalid"),
            (b"GET /\xff HTTP/1.1\r\n\r\n", 400, "invalid"),
            (b"CONNECT a:1 HTTP/1.1\r\n\r\n", 400, "invalid"),
        ],
        ids=lambda value: repr(value[:30]) if isinstance(value, bytes) else None,
    )
    def test_what_is_too_long_or_no_request_is_refused(
        self, line: Line, head: bytes, status: int, code: str | None
    ) -> None:
        line.send(head)
        answer = line.answer()
        assert answer is not None
        assert answer.status == status
        if code is not None:
            assert answer.code == code
            assert line.ends()

    @pytest.mark.parametrize(
        "head", [b"", b"GET", b"GET /healthz HTTP/1.1\r\n", b"GET /healthz HTTP/1.1\r\nX: a\r\n", b"\r\n"]
    )
    def test_a_head_that_does_not_end_is_waited_for_no_longer_than_the_limit(self, line: Line, head: bytes) -> None:
        began = time.monotonic()
        if head:
            line.send(head)
        answer = line.answer()
        assert answer is not None
        assert (answer.status, answer.code) == (408, "timeout")
        assert line.ends()
        assert HEAD_S <= time.monotonic() - began < HEAD_S + 4

    def test_a_head_that_comes_a_byte_at_a_time_is_not_waited_for_longer(self, line: Line) -> None:
        began = time.monotonic()
        line.socket.settimeout(0.1)
        while time.monotonic() - began < HEAD_S + 5:
            try:
                line.send(b"a")
                if not line.socket.recv(10_000):
                    break
            except TimeoutError:
                continue
            except ConnectionError:
                break
            else:
                break
        assert time.monotonic() - began < HEAD_S + 4

    def test_line_feeds_between_requests_keep_no_connection(self, line: Line) -> None:
        line.send(HEALTHZ)
        assert line.answer() is not None
        line.send(b"\r\n")
        assert line.ends()

    def test_an_idle_connection_is_closed(self, line: Line) -> None:
        line.send(HEALTHZ)
        assert line.answer() is not None
        began = time.monotonic()
        assert line.ends()
        assert time.monotonic() - began < 6

    def test_a_connection_whose_body_came_after_its_answer_is_closed_when_idle(self, line: Line) -> None:
        line.send(b"POST /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 2\r\n\r\n")
        answer = line.answer()
        assert answer is not None
        assert answer.status == 405
        line.send(b"{}")
        line.socket.settimeout(10)
        assert line.ends()

    def test_headers_after_the_body_are_not_read_as_headers(self, served: Served, line: Line) -> None:
        line.send(
            b"POST /api/v1/uploads HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n"
            b"\r\n2\r\n{}\r\n0\r\nAuthorization: Bearer " + served.token.encode() + b"\r\n\r\n"
        )
        answer = line.answer()
        assert answer is not None
        assert answer.status == 401

    def test_many_requests_at_once_on_one_connection_are_refused(self, line: Line) -> None:
        line.send(HEALTHZ * 1000)
        assert line.ends()
        assert line._held.count(b"HTTP/1.1 200") < 20

    def test_no_other_protocol_is_spoken(self, line: Line) -> None:
        line.send(
            b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n" + HEALTHZ
        )
        answer = line.answer()
        assert answer is not None
        assert answer.status == 200
        assert line.ends()


class TestBodies:
    def begin(self, served: Served, line: Line, size: int = 100_000, path: str = "/api/v1/uploads") -> None:
        line.send(
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {served.token}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {size}\r\n\r\n".encode()
        )

    def begin_chunked(self, served: Served, line: Line) -> None:
        line.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        line.send(
            f"POST /api/v1/uploads HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {served.token}\r\n"
            f"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        )

    def test_a_body_that_stops_is_given_up(self, served: Served, line: Line) -> None:
        began = time.monotonic()
        self.begin(served, line)
        line.send(b"{")
        answer = line.answer()
        assert answer is not None
        assert (answer.status, answer.code) == (408, "timeout")
        assert line.ends()
        assert 1 <= time.monotonic() - began < 6

    def test_a_body_that_comes_slowly_but_fast_enough_is_read(self, served: Served, line: Line) -> None:
        body = b'{"blobs": []}'.rjust(6000)
        self.begin(served, line, len(body))
        # 2,000 bytes per second, for longer than the grace.
        for at in range(0, len(body), 500):
            line.send(body[at : at + 500])
            time.sleep(0.25)
        answer = line.answer()
        assert answer is not None
        assert answer.status == 422

    def test_a_body_without_end_is_not_read_for_nobody(self, line: Line) -> None:
        line.send(b"POST /api/v1/uploads HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n")
        sent = 0
        try:
            while sent < 2**26:
                line.send(b"10000\r\n" + b"a" * 2**16 + b"\r\n")
                sent += 2**16
        except ConnectionError:
            pass
        # What is on its way in both systems' buffers comes on top of what is read.
        assert sent < 2**24

    def test_the_pieces_of_a_chunked_body_may_come_in_any_segments(self, served: Served, line: Line) -> None:
        body = b'{"blobs": []}'
        pieces = [
            b"%x;a=b\r\n" % 5,
            body[:5],
            b"\r\n%x" % (len(body) - 5),
            b"\r\n",
            body[5:],
            b"\r",
            b"\n0\r\n",
            b"\r\n",
        ]
        self.begin_chunked(served, line)
        began = time.monotonic()
        for piece in pieces:
            time.sleep(0.05)
            line.send(piece)
        answer = line.answer()
        assert answer is not None
        assert answer.status == 422
        assert time.monotonic() - began < 5

    @pytest.mark.parametrize("begin", [b"1;", b"1\r\na\r\n1;", b"0\r\nX: "], ids=repr)
    def test_what_frames_a_chunked_body_and_does_not_end_is_refused(
        self, served: Served, line: Line, begin: bytes
    ) -> None:
        self.begin_chunked(served, line)
        line.send(begin)
        sent = 0
        with suppress(ConnectionError):
            while sent < 2**26:
                line.send(b"a" * 2**14)
                sent += 2**14
        assert sent < 2**24
        assert line.ends()

    def test_a_body_behind_an_answer_is_read_so_that_the_answer_arrives(self, line: Line) -> None:
        line.send(b"POST /api/v1/uploads HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100000\r\n\r\n")
        line.send(b"a" * 100_000)
        answer = line.answer()
        assert answer is not None
        assert answer.status == 401
        line.send(HEALTHZ)
        answer = line.answer()
        assert answer is not None
        assert answer.status == 200

    def test_a_missing_right_is_told_before_the_body_comes_and_while_all_of_it_comes(
        self, served: Served, line: Line
    ) -> None:
        reader = Tokens(served.database).create(name="reader", grants={"team": Role.READER}, who=SYSTEM).secret
        body = b"{".ljust(LONGEST_BODY_BYTES)
        head = (
            f"POST /api/v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {reader}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode()
        for pieces in ([head, body], [head + body], [head[:-2], head[-2:] + body[:9], body[9:]]):
            for piece in pieces[:-1]:
                line.send(piece)
            if len(pieces) > 1:
                time.sleep(0.05)
            # This client only reads once it has sent everything.
            line.send(pieces[-1])
            answer = line.answer()
            assert answer is not None
            assert (answer.status, answer.code) == (403, "forbidden")
        # The end of a body that nobody reads, and the next head, in one piece.
        for pieces in ([head + body[:-100_000], body[-100_000:] + head], [body, head]):
            for piece in pieces:
                line.send(piece)
            answer = line.answer()
            assert answer is not None
            assert (answer.status, answer.code) == (403, "forbidden")


class TestRoom:
    """Bodies of some namespaces take all the room that there is for them, and then stand still."""

    def test_who_stands_still_makes_room_and_small_bodies_need_none(self, served: Served) -> None:
        tokens = Tokens(served.database)
        evil, evil2, sound = (
            # Of those who may not do this, no body would be read.
            tokens.create(name=name, grants={name: Role.ADMIN}, who=SYSTEM).secret
            for name in ("evil", "evil2", "sound")
        )
        part = b" " * (RAW_BYTES // 7)
        with ExitStack() as stack:
            held = [stack.enter_context(served.line(source=f"127.0.0.{60 + number}")) for number in range(7)]
            for number, line in enumerate(held):
                # 4 of 7 parts are a namespace's whole share.
                self.begin(line, evil if number < 4 else evil2, "jobs/x/complete", b"Transfer-Encoding: chunked")
                line.send(b"%x\r\n" % len(part) + part + b"\r\n")
            # What is sent may still be on its way; until it is held, there is room for others.
            time.sleep(1)
            for body in (b"{}", b'{"a": "%s"}' % (b"a" * 900_000)):
                began = time.monotonic()
                line = stack.enter_context(served.line(source="127.0.0.70"))
                self.begin(line, sound, "versions", b"Content-Length: %d" % len(body))
                line.send(body)
                answer = line.answer()
                assert answer is not None
                assert answer.status == 422
                assert time.monotonic() - began < 5
            refused = [answer.status for line in held if (answer := self.refusal(line)) is not None]
            assert refused == [408]

    def begin(self, line: Line, token: str, path: str, size: bytes) -> None:
        line.send(
            f"POST /api/v1/{path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n"
            "Content-Type: application/json\r\n".encode()
            + size
            + b"\r\n\r\n"
        )

    def refusal(self, line: Line) -> Answer | None:
        line.socket.settimeout(0.2)
        with suppress(TimeoutError):
            return line.answer()
        return None


class TestBehindAProxy(TestRoom):
    """What is left to a proxy in front; all that is about memory, and about where a request ends, is not."""

    @pytest.fixture(scope="class")
    @classmethod
    def served(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
        with serving(tmp_path_factory.mktemp("behind"), behind_proxy="1", max_connections_per_address="1") as found:
            yield found

    def test_one_address_has_several_slow_connections_for_longer_than_a_server_by_itself_waits(
        self, served: Served
    ) -> None:
        body = b'{"blobs": []}'
        post = f"POST /api/v1/uploads HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {served.token}\r\n"
        head = f"{post}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        with served.line() as slow, served.line() as slower, served.line() as idle:
            slow.send(HEALTHZ[:-2])
            slower.send(head + body[:1])
            idle.send(HEALTHZ)
            answer = idle.answer()
            assert answer is not None
            assert answer.status == 200
            # Longer than each of these may take where no proxy is in front.
            time.sleep(13)
            for line, rest, status in ((slow, HEALTHZ[-2:], 200), (slower, body[1:], 422), (idle, HEALTHZ, 200)):
                line.send(rest)
                answer = line.answer()
                assert answer is not None
                assert answer.status == status

    @pytest.mark.parametrize(
        ("request_", "status"),
        [
            (b"GET /healthz?" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 414),
            (b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"a" * 40_000 + b"\r\n\r\n", 431),
            (HEALTHZ[:-2] + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
            (HEALTHZ[:-2] + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400),
        ],
        ids=["url", "head", "length first", "length last"],
    )
    def test_sizes_and_two_ways_to_read_where_a_request_ends_are_refused(
        self, line: Line, request_: bytes, status: int
    ) -> None:
        line.send(request_)
        answer = line.answer()
        assert answer is not None
        assert answer.status == status
        assert line.ends()


class TestConnections:
    def test_one_address_has_so_many_and_others_are_served(self, served: Served) -> None:
        with ExitStack() as stack:
            lines = [stack.enter_context(served.line(source="127.0.0.2")) for _ in range(12)]
            for line in lines:
                line.send(HEALTHZ[:-2])
            crowded = stack.enter_context(served.line(source="127.0.0.2"))
            crowded.send(b"GET /api/v1/bases HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            answer = crowded.answer()
            assert answer is not None
            assert (answer.status, answer.code, answer.headers["retry-after"]) == (429, "rate_limited", "1")
            assert crowded.ends()
            assert served.healthy_s() < 1
            lines.pop().close()
        with served.line(source="127.0.0.2") as line:
            line.send(HEALTHZ)
            assert line.answer() is not None

    def test_an_address_that_opens_no_end_of_connections_is_told_that_the_server_lives(self, served: Served) -> None:
        with ExitStack() as stack:
            # Twelve are let in, twelve more are told that they are too many, and each further one ends one of these.
            for sent in (b"", b"GET /", HEALTHZ[:-2], HEALTHZ, HEALTHZ[:-2] + b"Content-Length: 900\r\n\r\n"):
                for _ in range(30):
                    line = stack.enter_context(served.line(source="127.0.0.3"))
                    with suppress(ConnectionError):
                        line.send(sent)
                with served.line(source="127.0.0.3") as probe:
                    probe.send(HEALTHZ)
                    answer = probe.answer()
                assert answer is not None
                assert answer.status == 200
            assert served.healthy_s() < 1

    def test_a_full_server_lets_go_of_who_says_nothing(self, served: Served) -> None:
        with ExitStack() as stack:
            lines = [
                stack.enter_context(served.line(source=f"127.0.0.{number}"))
                for number in (20, 21, 22, 23)
                for _ in range(10)
            ]
            for line in lines:
                line.send(HEALTHZ[:-2])
            with served.line(source="127.0.0.30") as line:
                line.send(b"GET /api/v1/bases HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
                answer = line.answer()
                assert answer is not None
                assert answer.status == 401
            assert served.healthy_s() < 1

    def test_what_is_refused_is_told_in_few_lines(self, served: Served) -> None:
        before = served.log.read_text().count("\n")
        for _ in range(200):
            with served.line(source="127.0.0.40") as line:
                line.send(b"nonsense\r\n\r\n")
                line.answer()
        told = served.log.read_text()
        assert told.count("\n") - before < 20
        assert "127.0.0.40" in told or "more of this kind" in told


def test_the_servers_own_log_has_no_secret(served: Served) -> None:
    assert served.token not in served.log.read_text()
    assert json.loads(served.ask("GET", "/api/v1/bases").content)["items"] == []


class TestProxies:
    """Whose failures they are: a proxy's word counts where the settings name it, and nobody else's."""

    def fail(self, served: Served, forwarded: str, times: int) -> list[int]:
        headers = {"X-Forwarded-For": forwarded}
        return [
            httpx.get(
                f"{served.url}/api/v1/bases", headers={**headers, "Authorization": f"Bearer actl_{n}"}
            ).status_code
            for n in range(times)
        ]

    def test_nobodys_word_counts_where_no_proxy_is_named(self, served: Served) -> None:
        assert [self.fail(served, f"192.0.2.{n}", 1) for n in range(25)][-1] == [429]

    def test_a_named_proxy_says_whose_it_is(self, tmp_path: Path) -> None:
        with serving(tmp_path, trusted_proxies="127.0.0.0/8", max_connections_per_address="1") as served:
            assert self.fail(served, "192.0.2.1, 192.0.2.7", 21)[-1] == 429
            # Who is named first was said by the client.
            assert self.fail(served, "192.0.2.1, 192.0.2.8", 1) == [401]
            # And the proxy itself has as many connections as it needs.
            with ExitStack() as stack:
                for line in [stack.enter_context(served.line()) for _ in range(5)]:
                    line.send(HEALTHZ)
                    answer = line.answer()
                    assert answer is not None
                    assert answer.status == 200
            assert "192.0.2.7" in served.log.read_text()

    def test_a_named_proxy_over_ipv6_has_as_many_connections_as_it_needs_and_no_other_has(self, tmp_path: Path) -> None:
        for trusted, statuses in (("::1", {200}), ("2001:db8::5", {200, 429})):
            folder = tmp_path / trusted.replace(":", "-")
            folder.mkdir()
            given = {"trusted_proxies": trusted, "max_connections_per_address": "1"}
            with serving(folder, host="::1", **given) as served, ExitStack() as stack:
                seen = set()
                for line in [stack.enter_context(served.line()) for _ in range(2)]:
                    line.send(b"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
                    answer = line.answer()
                    assert answer is not None
                    seen.add(answer.status)
                assert seen == statuses


def test_two_processes_have_the_same_limits(tmp_path: Path) -> None:
    with serving(tmp_path, "--workers", "2") as served:
        for _ in range(8):
            with served.line() as line:
                line.send(b"GET /healthz HTTP/1.1\r\n" + b"X: a\r\n" * 101 + b"\r\n")
                answer = line.answer()
                assert answer is not None
                assert answer.status == 431
