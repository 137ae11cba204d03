"""A server takes requests for its own hosts alone, as `adapter-registry serve` runs it and as bytes come in."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.wire import Answer, Served, serving

TOKEN = b'{"name":"stolen","grants":[{"namespace":"*","role":"admin"}]}'


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server without tokens."""
    with serving(tmp_path_factory.mktemp("open"), auth="none") as found:
        yield found


def ask(served: Served, target: str, *headers: str, version: str = "1.1", body: bytes | None = None) -> Answer:
    """Send a request as these bytes, and return its answer."""
    method = "GET" if body is None else "POST"
    lines = [f"{method} {target} HTTP/{version}", *headers]
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    with served.line() as line:
        line.send("\r\n".join([*lines, "", ""]).encode() + (body or b""))
        answer = line.answer()
    assert answer is not None
    return answer


def test_a_page_that_points_its_own_name_at_the_server_makes_no_token(served: Served) -> None:
    page = f"evil.example:{served.port}"
    rebound = ask(served, "/api/v1/tokens", f"Host: {page}", f"Origin: http://{page}", body=TOKEN)
    assert (rebound.status, rebound.code) == (421, "misdirected")
    across = ask(served, "/api/v1/tokens", f"Host: 127.0.0.1:{served.port}", f"Origin: http://{page}", body=TOKEN)
    assert (across.status, across.code) == (403, "forbidden")
    assert b"stolen" not in ask(served, "/api/v1/tokens", "Host: localhost").body
    own = f"127.0.0.1:{served.port}"
    made = ask(served, "/api/v1/tokens", f"Host: {own}", f"Origin: http://{own}", body=TOKEN.replace(b"stolen", b"own"))
    assert made.status == 201


@pytest.mark.parametrize(
    ("target", "headers", "status"),
    [
        ("/docs", ("Host: localhost",), 200),
        ("/docs", ("host:\t127.0.0.1 ",), 200),
        ("/docs", ("Host: evil.example",), 421),
        ("/docs", (), 421),
        ("/docs", ("Host:",), 421),
        ("/docs", ("Host: localhost", "Host: evil.example"), 421),
        ("/docs", ("Host: evil.example", "X-Forwarded-Host: localhost"), 421),
        # What the request's line names counts, and the header does not.
        ("http://evil.example/docs", ("Host: localhost",), 421),
        ("http://localhost.evil.example/docs", ("Host: localhost",), 421),
        ("http://localhost/docs", ("Host: evil.example",), 200),
        ("http://[::1]:80/docs", ("Host: evil.example", "Host: b"), 200),
        ("*", ("Host: evil.example",), 421),
        ("/healthz", ("Host: evil.example",), 200),
        ("/readyz", ("Host: 10.42.0.17:8080", "Origin: http://10.42.0.17"), 200),
        ("http://evil.example/healthz", (), 200),
        ("/healthz/../docs", ("Host: evil.example",), 421),
        ("/%68ealthz", ("Host: evil.example",), 200),
    ],
)
def test_the_host_of_each_request_counts(served: Served, target: str, headers: tuple[str, ...], status: int) -> None:
    assert ask(served, target, *headers).status == status
    if headers:
        assert ask(served, target, *headers, version="1.0").status == status


def test_each_request_on_one_connection_names_a_host(served: Served) -> None:
    with served.line() as line:
        line.send(
            b"".join(b"GET /docs HTTP/1.1\r\nHost: %b\r\n\r\n" % host for host in (b"localhost", b"a", b"localhost"))
        )
        assert [None if (answer := line.answer()) is None else answer.status for _ in range(3)] == [200, 421, 200]


def test_a_server_that_listens_everywhere_says_that_it_wants_to_know_its_name(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with serving(tmp_path_factory.mktemp("everywhere"), host="0.0.0.0") as served:
        assert "REGISTRY_PUBLIC_URL" in served.log.read_text()
        assert ask(served, "/api/v1/bases", "Host: 127.0.0.1").status == 401
        refused = ask(served, "/api/v1/bases", "Host: 0.0.0.0")
        assert (refused.status, refused.code) == (421, "misdirected")
        assert b"REGISTRY_ALLOWED_HOSTS" in refused.body
