"""The door of the pages, as strangers try it: other hosts, other origins, other cookies, odd paths and bodies."""

from __future__ import annotations

import gzip
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import httpx
import pytest
from fastapi.testclient import TestClient
from support import registries
from support.page_readers import csrf_of, signed_in
from support.registries import World

from registry.app.application import create_app
from registry.http.refusals import REFUSALS
from registry.principal import Role
from registry.search.adapters import AdapterSearch
from registry.settings import Settings
from registry.web.sessions.gate import TRUST_S

ADAPTERS, SIGN_IN = "/ui/adapters", "/ui/sign-in"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with registries.served(tmp_path_factory.mktemp("door")) as served:
        yield served


@pytest.fixture
def stranger(world: World) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=world.url, timeout=30) as browser:
        yield browser


@pytest.fixture
def reader(world: World) -> Iterator[httpx.Client]:
    with signed_in(world.url, world.token(Role.READER)) as browser:
        yield browser


def raw(world: World, *lines: str) -> tuple[int, str]:
    """Send lines as they are; return status and all that is answered."""
    port = int(world.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall("".join(f"{line}\r\n" for line in (*lines, "Connection: close", "")).encode())
        answer = b""
        while part := connection.recv(65536):
            answer += part
    return int(answer.split(b" ", 2)[1]), answer.decode()


@contextmanager
def asking(settings: Settings, url: str) -> Iterator[TestClient]:
    """A browser of another process of a registry."""
    app = create_app(settings)
    try:
        yield TestClient(app, base_url=url, follow_redirects=False)
    finally:
        app.state.services.db.close()


@pytest.mark.parametrize(
    "origin",
    [
        None,
        "null",
        "",
        "https://evil.example",
        "http://127.0.0.1",
        "http://127.0.0.1:1",
        "http://localhost:{port}",
        "http://127.0.0.1:{port}.evil.example",
        "file://",
        "chrome-extension://{port}",
        "http://evil.example@127.0.0.1:{port}",
    ],
)
def test_change_from_another_origin_is_refused_and_changes_nothing(
    world: World, reader: httpx.Client, origin: str | None
) -> None:
    csrf = csrf_of(reader)
    del reader.headers["Origin"]
    headers = {} if origin is None else {"Origin": origin.format(port=world.url.rpartition(":")[2])}
    REFUSALS.drain()
    assert reader.post("/ui/sign-out", data={"csrf": csrf}, headers=headers).status_code == 403
    assert REFUSALS.drain().get("forbidden") == 1
    assert reader.post(SIGN_IN, data={"token": "any"}, headers=headers).status_code == 403
    assert reader.get(ADAPTERS).status_code == 200


def test_change_that_the_browser_calls_foreign_is_refused_whatever_its_origin(reader: httpx.Client) -> None:
    csrf = csrf_of(reader)
    for site in ("cross-site", "same-site", "none"):
        answer = reader.post("/ui/sign-out", data={"csrf": csrf}, headers={"Sec-Fetch-Site": site})
        assert answer.status_code == 403
    assert reader.get(ADAPTERS).status_code == 200


def test_two_origins_are_none(world: World, reader: httpx.Client) -> None:
    answer = reader.post(
        SIGN_IN, data={"token": "any"}, headers=[("Origin", world.url), ("Origin", "https://evil.example")]
    )
    assert answer.status_code == 403


def test_another_host_gets_a_page_without_anything_of_a_session(reader: httpx.Client) -> None:
    answer = reader.get(ADAPTERS, headers={"Host": "evil.example"})
    assert answer.status_code == 421
    assert answer.headers["Content-Type"].startswith("text/html")
    assert "some reader" not in answer.text


def test_sign_out_ends_the_session_in_another_process_as_well(world: World, reader: httpx.Client) -> None:
    with asking(world.services.settings, world.url) as other:
        other.headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in reader.cookies.items())
        assert other.get(ADAPTERS).status_code == 200
        assert reader.post("/ui/sign-out", data={"csrf": csrf_of(reader)}).status_code == 303
        time.sleep(TRUST_S)
        assert other.get(ADAPTERS).status_code == 303


def test_two_cookies_of_one_name_are_no_session(world: World, reader: httpx.Client) -> None:
    ((name, value),) = reader.cookies.items()
    for line in (f"{name}=forged; {name}={value}", f"{name}={value}; {name}=forged"):
        assert httpx.get(f"{world.url}/ui/adapters", headers={"Cookie": line}).status_code == 303
    twice = httpx.get(f"{world.url}/ui/adapters", headers={"Cookie": f"{name}={value}; {name}={value}"})
    assert twice.status_code == 200


def test_cookie_of_another_port_or_without_the_prefix_is_no_session(world: World, reader: httpx.Client) -> None:
    ((name, value),) = reader.cookies.items()
    stem = name.rpartition("_")[0]
    for other in (stem, f"{stem}_1", f"__Host-{stem}", name.upper()):
        answer = httpx.get(f"{world.url}/ui/adapters", headers={"Cookie": f"{other}={value}"})
        assert answer.status_code == 303, other


def test_cookie_is_not_one_for_scripts_other_sites_or_the_api(world: World, stranger: httpx.Client) -> None:
    token = world.token(Role.ADMIN)
    answer = stranger.post(SIGN_IN, data={"token": token}, headers={"Origin": world.url})
    cookie = answer.headers["Set-Cookie"]
    assert {"HttpOnly", "Path=/ui/", "SameSite=lax"} <= set(cookie.split("; "))
    name, _, value = cookie.partition(";")[0].partition("=")
    assert len(value) >= 43
    for path in ("/api/v1/bases", "/metrics"):
        assert stranger.get(path, headers={"Cookie": f"{name}={value}"}).status_code == 401


def test_token_is_no_session_and_a_session_no_token(world: World, stranger: httpx.Client) -> None:
    token = world.token(Role.ADMIN)
    assert stranger.get(ADAPTERS, headers={"Authorization": f"Bearer {token}"}).status_code == 303


@pytest.mark.parametrize(
    "back",
    [
        "//evil.example", "https://evil.example", "/ui/..//evil.example", "/ui//evil.example", "/ui/\\evil.example",
        "/ui/%2e%2e//evil.example", "/ui/%2E%2E/api", "/ui/./x", "/ui/\tx", "/ui/x\r\nSet-Cookie: a=b", "/UI/../x",
        "/docs", "javascript:alert(1)", "", "/ui", "/ui/sign-out", "/ui/sign-in?next=/ui/sign-in", "/ui/code?code=x",
    ],
)  # fmt: skip
def test_way_back_leads_to_pages_of_ours_alone(world: World, stranger: httpx.Client, back: str) -> None:
    answer = stranger.post(
        SIGN_IN, data={"token": world.token(Role.READER), "next": back}, headers={"Origin": world.url}
    )
    assert (answer.status_code, answer.headers["Location"]) == (303, ADAPTERS)
    assert len(answer.headers.get_list("Set-Cookie")) == 1
    assert 'value="/ui/adapters"' in stranger.get(SIGN_IN, params={"next": back}).text


def test_way_back_keeps_what_a_page_was_asked(world: World, stranger: httpx.Client) -> None:
    back = "/ui/adapters/team/code-review/v3?filter=rank+%3E+8&namespace=a%2Fb"
    answer = stranger.post(
        SIGN_IN, data={"token": world.token(Role.READER), "next": back}, headers={"Origin": world.url}
    )
    assert answer.headers["Location"] == back


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("application/x-www-form-urlencoded", b"token=a&" + b"x" * 70_000, 413),
        ("application/x-www-form-urlencoded", b"&".join(b"a%d=1" % number for number in range(200)), 422),
        ("application/x-www-form-urlencoded", b"token=a&token=b", 422),
        ("application/x-www-form-urlencoded", b"token=%ff%fe", 422),
        ("application/x-www-form-urlencoded", b"token=\xff", 422),
        ("application/x-www-form-urlencoded; charset=utf-16", b"token=a", 415),
        ("multipart/form-data; boundary=x", b"--x--", 415),
        ("text/plain", b"token=a", 415),
        ("application/json", b'{"token": "a"}', 415),
        ("application/x-www-form-urlencoded; charset=UTF-8", b"token=a", 401),
        ("application/x-www-form-urlencoded", b"", 401),
        ("application/x-www-form-urlencoded", b"token=%00", 401),
    ],
)
def test_form_that_is_none_is_refused_by_a_page(
    world: World, stranger: httpx.Client, kind: str, body: bytes, status: int
) -> None:
    answer = stranger.post(SIGN_IN, content=body, headers={"Origin": world.url, "Content-Type": kind})
    assert answer.status_code == status
    assert answer.headers["Content-Type"].startswith("text/html")
    assert "Set-Cookie" not in answer.headers


@pytest.mark.parametrize(
    "path",
    ["/ui//adapters", "/UI/adapters", "//ui/adapters", "/ui/%2e%2e/ui/adapters", "/ui/adapters%00", "/ui/%61dapters/"],
)
def test_odd_path_shows_no_page_to_strangers(world: World, path: str) -> None:
    status, text = raw(world, f"GET {path} HTTP/1.1", f"Host: {world.url.removeprefix('http://')}")
    assert status in (303, 307, 404)
    assert "<h1>Adapters" not in text


def test_head_is_answered_without_a_body(world: World, reader: httpx.Client) -> None:
    answer = reader.head(ADAPTERS)
    assert (answer.status_code, answer.content) == (200, b"")
    assert reader.head("/ui/no-such-page").status_code == 404


def test_errors_are_pages_with_the_headers_of_all_pages(reader: httpx.Client) -> None:
    policy = reader.get(ADAPTERS).headers["Content-Security-Policy"]
    assert "'unsafe-inline'" not in policy
    for method, path, status in (
        ("GET", "/ui/none", 404),
        ("PUT", ADAPTERS, 405),
        ("GET", f"{ADAPTERS}?cursor=x", 422),
    ):
        answer = reader.request(method, path)
        assert answer.status_code == status
        assert answer.headers["Content-Type"].startswith("text/html")
        assert answer.headers["Content-Security-Policy"] == policy
        assert answer.headers["Cache-Control"] == "no-store"
        assert 'role="alert"' in answer.text
    assert set(reader.put(ADAPTERS).headers["Allow"].split(", ")) == {"GET", "HEAD"}


def test_fault_is_a_page_that_says_nothing_of_its_cause(
    world: World, reader: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a secret of the server")

    monkeypatch.setattr(AdapterSearch, "find", fail)
    answer = reader.get(ADAPTERS)
    assert answer.status_code == 500
    assert "a secret" not in answer.text
    assert "its log has the details" in answer.text


def test_pages_are_compressed_unless_another_site_leads_to_them(reader: httpx.Client) -> None:
    def size(**headers: str) -> tuple[str | None, int]:
        answer = reader.get(ADAPTERS, headers=headers)
        return answer.headers.get("Content-Encoding"), int(answer.headers["Content-Length"])

    encoding, compressed = size()
    assert encoding == "gzip"
    assert size(**{"Accept-Encoding": "identity"})[1] > compressed
    for site in ("cross-site", "same-site"):
        assert size(**{"Sec-Fetch-Site": site})[0] is None
    assert size(**{"Sec-Fetch-Site": "same-origin"})[0] == "gzip"


def test_csrf_token_is_another_text_each_time_and_counts_each_time(reader: httpx.Client) -> None:
    first, second = csrf_of(reader), csrf_of(reader)
    assert first != second
    assert gzip.compress(first.encode()) != gzip.compress(second.encode())
    assert reader.post("/ui/sign-out", data={"csrf": first}).status_code == 303


def test_proxy_s_headers_say_nothing_to_a_server_that_trusts_none(world: World, stranger: httpx.Client) -> None:
    forged = {
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "evil.example",
        "Forwarded": "proto=https;host=evil.example",
    }
    answer = stranger.post(
        SIGN_IN, data={"token": world.token(Role.READER)}, headers={"Origin": "https://evil.example", **forged}
    )
    assert answer.status_code == 403


def test_icon_and_the_ways_in_are_there(stranger: httpx.Client) -> None:
    assert stranger.get("/favicon.ico", follow_redirects=True).headers["Content-Type"] == "image/svg+xml"
    for path in ("/", "/ui"):
        assert stranger.get(path).headers["Location"] == ADAPTERS


def test_registry_without_tokens_lets_its_own_page_in_alone(tmp_path_factory: pytest.TempPathFactory) -> None:
    with registries.served(tmp_path_factory.mktemp("none")) as served:
        settings = replace(served.services.settings, auth="none")
        with asking(settings, "http://127.0.0.1:8000") as browser:
            assert browser.get(ADAPTERS).status_code == 303
            assert "asks for no token" in browser.get(SIGN_IN).text
            foreign = browser.post(SIGN_IN, data={}, headers={"Origin": "https://evil.example"})
            assert foreign.status_code == 403
            own = {"Origin": "http://127.0.0.1:8000", "Content-Type": "application/x-www-form-urlencoded"}
            assert browser.post(SIGN_IN, content="next=/ui/jobs", headers=own).headers["Location"] == "/ui/jobs"
            assert browser.get(ADAPTERS).status_code == 200


def test_public_url_with_tls_decides_the_cookie_and_the_origin(tmp_path_factory: pytest.TempPathFactory) -> None:
    with registries.served(tmp_path_factory.mktemp("tls")) as served:
        settings = replace(served.services.settings, public_url="https://registry.example.com")
        token = {"token": served.token(Role.READER)}
        with asking(settings, "http://registry.example.com") as browser:
            plain = browser.post(SIGN_IN, data=token, headers={"Origin": "http://registry.example.com"})
            assert (plain.status_code, "https://registry.example.com" in plain.text) == (403, True)
            answer = browser.post(SIGN_IN, data=token, headers={"Origin": "https://registry.example.com"})
            assert answer.headers["Set-Cookie"].startswith("__Host-adapterctl_session=")
            assert {"Secure", "HttpOnly", "Path=/", "SameSite=lax"} <= set(answer.headers["Set-Cookie"].split("; "))
