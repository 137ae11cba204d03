"""Parts of the door by themselves: origins and cookies, masked tokens, ways back, answers that are replaced or compressed."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Mapping
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.types import ASGIApp

from registry.errors import Forbidden, Unauthenticated
from registry.principal import Principal
from registry.web.compression import Compression
from registry.web.error_pages import ErrorPages
from registry.web.sessions.site import Site
from registry.web.signed_in import SignedIn


def request_of(headers: Mapping[str, str], *, scheme: str = "http", path: str = "/ui/x") -> Request:
    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
    return Request(
        {"type": "http", "method": "GET", "scheme": scheme, "path": path, "query_string": b"", "headers": raw}
    )


async def answered_by(
    app: ASGIApp, headers: Mapping[str, str], path: str = "/ui/x"
) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers and body of an answer."""
    sent: list[Any] = []

    async def receive() -> Any:
        # Nobody leaves.
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    await app(request_of(headers, path=path).scope, receive, send)
    start = sent[0]
    return (
        start["status"],
        {name.decode(): value.decode() for name, value in start["headers"]},
        b"".join(message.get("body", b"") for message in sent[1:]),
    )


def test_origin_with_the_usual_port_is_that_of_its_host() -> None:
    site = Site(None)
    for origin, host, scheme in (
        ("http://reg.example", "reg.example", "http"),
        ("http://reg.example:80", "reg.example", "http"),
        ("https://reg.example", "reg.example", "https"),
        ("https://REG.example", "reg.example:443", "https"),
        ("http://[::1]:8000", "[::1]:8000", "http"),
    ):
        site.require_own_origin(request_of({"Origin": origin, "Host": host}, scheme=scheme))


@pytest.mark.parametrize(
    "origin", ["https://reg.example:8443", "http://reg.example.", "ftp://reg.example", "reg.example"]
)
def test_origin_of_another_port_or_scheme_is_foreign(origin: str) -> None:
    with pytest.raises(Forbidden):
        Site("https://reg.example").require_own_origin(request_of({"Origin": origin, "Host": "reg.example"}))


def test_cookie_of_a_server_that_runs_once_has_a_name_of_its_own() -> None:
    first, second = Site(None, "aa"), Site(None, "bb")
    answer, asked = Response(), request_of({"Host": "127.0.0.1:8012"})
    first.give(asked, answer, "secret")
    name = answer.headers["set-cookie"].partition("=")[0]
    sent = request_of({"Host": "127.0.0.1:8012", "Cookie": f"{name}=secret; a=b;c; ;=d"})
    assert first.cookie_of(sent) == "secret"
    assert second.cookie_of(sent) == ""


def test_two_different_cookies_of_one_name_are_refused() -> None:
    with pytest.raises(Unauthenticated):
        Site(None).cookie_of(request_of({"Host": "h:1", "Cookie": "adapterctl_session_1=a; adapterctl_session_1=b"}))


@pytest.mark.parametrize("given", ["", "x", "é", "A" * 86, "A" * 88, "=" * 88, "A" * 10_000])
def test_text_that_a_session_has_not_made_is_not_its_own(given: str) -> None:
    session = SignedIn.of("secret", Principal("ada"), "digest")
    assert not session.has_made(given)
    assert not SignedIn.of("another", Principal("ada"), "digest").has_made(session.csrf)
    assert session.has_made(session.csrf)
    assert "_key" not in repr(session)


def test_errors_in_json_become_pages_and_all_else_passes() -> None:
    error = JSONResponse({"error": {"code": "x", "message": "<b>no</b>", "param": None}}, 503, {"Retry-After": "3"})
    status, headers, body = asyncio.run(answered_by(ErrorPages(error), {}))
    assert (status, headers["retry-after"]) == (503, "3")
    assert b"&lt;b&gt;no&lt;/b&gt;" in body
    for other in (JSONResponse({"points": []}), PlainTextResponse("gone", 404)):
        assert asyncio.run(answered_by(ErrorPages(other), {}))[2] == other.body
    assert asyncio.run(answered_by(ErrorPages(error), {}, "/api/v1/x"))[2] == error.body


def test_only_whole_long_answers_are_compressed() -> None:
    accepts = {"Accept-Encoding": "br, gzip;q=0.5"}
    long = PlainTextResponse("a" * 5000)
    _, headers, body = asyncio.run(answered_by(Compression(long), accepts))
    assert (headers["content-encoding"], headers["vary"]) == ("gzip", "Accept-Encoding")
    assert int(headers["content-length"]) == len(body) < 5000
    assert gzip.decompress(body) == long.body

    async def parts() -> Any:
        for _ in range(3):
            yield b"data: x\n\n" * 1000

    for app, given in (
        (PlainTextResponse("a" * 100), accepts),
        (long, {}),
        (long, {"Accept-Encoding": "br, gzip;q=0"}),
        (long, {**accepts, "Sec-Fetch-Site": "cross-site"}),
        (Response(b"a" * 5000, media_type="application/octet-stream"), accepts),
        (StreamingResponse(parts(), media_type="text/event-stream"), accepts),
    ):
        assert "content-encoding" not in asyncio.run(answered_by(Compression(app), given))[1]
