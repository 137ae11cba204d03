"""Which hosts a server answers for, and which pages may use it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from starlette.types import Receive, Scope, Send

from registry.app.application import create_app
from registry.door.allowed_hosts import AnswerOwnHosts, HostNames, hosts_of
from registry.errors import Invalid
from registry.settings import Settings

PARAM = "REGISTRY_ALLOWED_HOSTS"
LOOPBACK = ["localhost", "LOCALHOST", "localhost.", "127.0.0.1", "127.8.9.10", "[::1]", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]"]  # fmt: skip
ALLOWED = [
    "registry.example",
    "Registry.Example",
    "registry.example.",
    "a.b.internal.example",
    "10.0.0.5",
    "[fd00::5]",
    "[FD00:0:0::5]",
    "[::ffff:10.0.0.5]",
]
FOREIGN = [
    "evil.example",
    "internal.example",
    "xinternal.example",
    "registry.example.evil.example",
    "evil-registry.example",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "0.0.0.0",
    "[::]",
    "10.0.0.6",
    "[fd00::6]",
    "2130706433",
    "0x7f000001",
    "127.1",
]
#: What is no host at all.
BROKEN = [
    "",
    ":80",
    ".",
    "[]",
    "[::1",
    "::1",
    "evil.example@127.0.0.1",
    "127.0.0.1/x",
    "127.0.0.1, evil.example",
    "127.0.0.1 evil.example",
    "127.0.0.1:x",
    "127.0.0.1:808080",
    "lócalhost",
    "127.0.0.1#",
    "*",
    "a" * 271,
    "localhost" + "." * 2,
]


def app_of(folder: Path, **given: Any) -> Any:
    """An application that was never asked for anything in its database, which isn't there."""
    given = {"storage_url": (folder / "a").as_uri(), "public_url": "http://127.0.0.1:8080", **given}
    return create_app(Settings(database_url=f"sqlite:///{folder / 'r.sqlite3'}", **given))


@contextmanager
def client_of(folder: Path, **given: Any) -> Iterator[TestClient]:
    app = app_of(folder, **given)
    yield TestClient(app, base_url="http://127.0.0.1:8080")
    app.state.services.db.close()


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A registry with tokens, and hosts."""
    given = {"allowed_hosts": "Registry.Example.:443, *.internal.example,,10.0.0.5,fd00::5 , [fd00::7]:80"}
    with client_of(tmp_path_factory.mktemp("hosts"), **given) as client:
        yield client


@pytest.fixture(scope="module")
def open_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A registry that asks for no token."""
    folder = tmp_path_factory.mktemp("open")
    with client_of(folder, auth="none", public_url="http://registry.example", allowed_hosts="*") as client:
        yield client


@pytest.mark.parametrize("host", [*LOOPBACK, *ALLOWED])
@pytest.mark.parametrize("port", ["", ":8080", ":"])
def test_own_hosts_are_answered_whatever_port_they_name(registry: TestClient, host: str, port: str) -> None:
    assert registry.get("/api/v1/bases", headers={"Host": host + port}).status_code == 401


@pytest.mark.parametrize("host", [*FOREIGN, *BROKEN])
def test_other_hosts_are_refused_before_the_token_is_looked_at(registry: TestClient, host: str) -> None:
    answer = registry.get("/api/v1/bases", headers={"Host": host.encode("latin-1")})
    assert answer.status_code == 421
    assert answer.headers["content-type"] == "application/json"
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("misdirected", "Host")
    assert PARAM in error["message"]
    assert len(error["message"]) < 300


@pytest.mark.parametrize(
    "path",
    ["/api/v1/bases", "/api/v1/blobs/0123?signature=x", "/docs", "/openapi.json", "/metrics", "/none", "/healthz/"],
)
@pytest.mark.parametrize("method", ["GET", "PUT", "OPTIONS"])
def test_every_path_but_the_probes_is_for_own_hosts(registry: TestClient, method: str, path: str) -> None:
    assert registry.request(method, path, headers={"Host": "evil.example"}).status_code == 421


@pytest.mark.parametrize("host", ["evil.example", "10.42.0.17:8080", ""])
def test_probes_are_answered_for_any_host(registry: TestClient, host: str) -> None:
    assert registry.get("/healthz", headers={"Host": host}).status_code == 200
    assert registry.get("/readyz", headers={"Host": host}).status_code in (200, 503)


def test_a_forwarded_host_does_not_count(registry: TestClient) -> None:
    forwarded = {"X-Forwarded-Host": "127.0.0.1", "Forwarded": "host=127.0.0.1", "X-Host": "127.0.0.1"}
    assert registry.get("/api/v1/bases", headers={"Host": "evil.example", **forwarded}).status_code == 421


def through(scope: dict[str, Any]) -> tuple[bool, int | None]:
    """Whether a scope comes through a door that lets in every host, and the status that it is answered with."""
    passed: list[bool] = []
    answered: list[int] = []

    async def behind(scope: Scope, receive: Receive, send: Send) -> None:
        passed.append(True)

    async def send(message: Any) -> None:
        answered.append(message.get("status", 0))

    async def receive() -> Any:
        raise AssertionError("nothing is read")

    asyncio.run(
        AnswerOwnHosts(behind, hosts=HostNames.parsed("*", param="hosts"), refuses_pages=True)(scope, receive, send)
    )
    return bool(passed), answered[0] if answered else None


@pytest.mark.parametrize(
    "hosts", [[], [b"127.0.0.1", b"evil.example"], [b"evil.example", b"127.0.0.1"], [b"127.0.0.1", b"127.0.0.1"]]
)
def test_a_request_has_one_host(hosts: list[bytes]) -> None:
    scope = {"type": "http", "method": "GET", "path": "/api/v1/x", "headers": [(b"host", host) for host in hosts]}
    assert through(scope) == (False, 421)


@pytest.mark.parametrize("kind", ["lifespan", "websocket"])
def test_other_scopes_than_requests_pass(kind: str) -> None:
    assert through({"type": kind, "path": "/api/v1/x", "headers": []}) == (True, None)


@pytest.mark.parametrize("host", [*LOOPBACK, "127.0.0.1:8080"])
def test_without_tokens_loopback_is_answered(open_registry: TestClient, host: str) -> None:
    assert open_registry.get("/docs", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", [*FOREIGN, *ALLOWED, *BROKEN])
def test_without_tokens_nothing_else_is_whatever_is_set(open_registry: TestClient, host: str) -> None:
    answer = open_registry.post("/api/v1/tokens", json={}, headers={"Host": host.encode("latin-1")})
    assert (answer.status_code, answer.json()["error"]["code"]) == (421, "misdirected")
    assert "REGISTRY_AUTH" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "null",
        "",
        "http://127.0.0.1",
        "http://127.0.0.1:3000",
        "http://localhost:8080",
        "http://127.0.0.1:8080.evil.example",
        "http://evil.example/127.0.0.1:8080",
        "file://",
        "chrome-extension://127.0.0.1:8080",
        "http://127.0.0.1:8080/",
        "http://x@127.0.0.1:8080",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_without_tokens_pages_of_other_origins_are_refused(open_registry: TestClient, method: str, origin: str) -> None:
    answer = open_registry.request(method, "/api/v1/jobs", headers={"Host": "127.0.0.1:8080", "Origin": origin})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")
    assert "REGISTRY_AUTH=none" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("localhost", "http://localhost"),
        ("localhost:443", "https://localhost"),
        ("[::1]:8080", "http://[::1]:8080"),
    ],
)
def test_without_tokens_the_registry_s_own_pages_may_use_it(open_registry: TestClient, host: str, origin: str) -> None:
    assert open_registry.get("/docs", headers={"Host": host, "Origin": origin}).status_code == 200


def test_with_tokens_an_origin_makes_no_difference(registry: TestClient) -> None:
    assert registry.get("/api/v1/bases", headers={"Origin": "https://evil.example"}).status_code == 401


def test_the_public_url_s_host_is_answered_without_being_named_again() -> None:
    hosts = hosts_of(auth="token", public_url="https://Registry.Example:8443/x", allowed="api")
    assert [hosts.has(name) for name in ("registry.example", "api", "localhost", "other")] == [True, True, True, False]
    assert hosts_of(auth="token", public_url="http://[fd00::5]:80", allowed=None).has("fd00::5")
    for nothing in (None, "", "nonsense", "http://[", "/path"):
        assert hosts_of(auth="token", public_url=nothing, allowed=None) == HostNames()


def test_a_star_stands_for_every_host() -> None:
    assert HostNames.parsed("*", param=PARAM).has("evil.example")
    assert HostNames.parsed("api, *", param=PARAM).has("evil.example")


@pytest.mark.parametrize(
    "wrong",
    ["https://registry.example", "a b", "a/b", "*a", "**", "*.", "a.*", "*.*.a", "[::1", "ü.example", "a:b", "a@b"],
)
def test_a_setting_that_is_no_list_of_hosts_is_refused(tmp_path: Path, wrong: str) -> None:
    with pytest.raises(Invalid, match=PARAM):
        app_of(tmp_path, allowed_hosts=f"api,{wrong}")
