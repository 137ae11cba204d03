"""A caller that may nowhere do what a request asks for is refused before its body is read, on every route that takes one."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from starlette.types import Message
from support.migrated import migrated_file

from registry.app.application import create_app
from registry.http.rights import right_of
from registry.http.routes import StrictRoute, room
from registry.principal import SYSTEM, Role, roles_of
from registry.settings import Settings
from sdk.schemas.jobs import JobSubmission
from sdk.version import API

METHODS = ("POST", "PUT", "PATCH", "DELETE")


class Place:
    """A registry, with a token for each role."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app
        tokens = app.state.services.tokens
        self.tokens = {role: tokens.create(name=role, grants={"team": role}, who=SYSTEM).secret for role in Role}

    @property
    def routes(self) -> list[APIRoute]:
        """The routes that change something: nearly all take a body, and each may be sent one."""
        routes: list[APIRoute] = self.app.state.documented
        return [route for route in routes if route.methods & set(METHODS) and route.path.startswith(API)]

    def ask(self, route: APIRoute, token: str | None, body: bytes = b"{") -> tuple[int, dict[str, Any], int]:
        """Send a request with a body; return the status, the answer, and how often the body was asked for."""
        path = re.sub(r"\{[^}]+\}", "1", route.path)
        length = str(max(1, len(body))).encode()
        headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json"), (b"content-length", length)]
        if token is not None:
            headers.append((b"authorization", f"Bearer {token}".encode()))
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http", "path": path,
            "raw_path": path.encode(), "query_string": b"", "root_path": "", "method": next(iter(route.methods)),
            "headers": headers, "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
        }  # fmt: skip
        read, sent = 0, []

        async def receive() -> Message:
            nonlocal read
            read += 1
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Message) -> None:
            sent.append(message)

        asyncio.run(self.app(scope, receive, send))
        answer = json.loads(b"".join(message.get("body", b"") for message in sent) or b"{}")
        return sent[0]["status"], answer, read


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("rights")
    settings = Settings(
        database_url=migrated_file(folder / "registry.sqlite3"),
        storage_url=(folder / "artifacts").as_uri(),
        public_url="http://127.0.0.1:8080",
        rate_limit_per_s=0,
        failed_logins_per_minute=10_000,
    )
    app = create_app(settings)
    yield Place(app)
    app.state.services.db.close()


def test_whoever_lacks_the_right_is_refused_before_the_body_is_read(place: Place) -> None:
    refused = 0
    for route in place.routes:
        action = right_of(route)
        assert action is not None, route.path
        for role in Role:
            status, answer, read = place.ask(route, place.tokens[role])
            if role.value in roles_of(action):
                # What is sent is no JSON.
                assert (read, answer["error"]["code"]) == (1, "invalid"), (route.path, role)
            else:
                assert (status, read, answer["error"]["code"]) == (403, 0, "forbidden"), (route.path, role)
                refused += 1
    assert refused > 60


def test_whoever_has_no_token_is_refused_before_the_body_is_read(place: Place) -> None:
    for route in place.routes:
        for token in (None, "actl_wrong"):
            status, _, read = place.ask(route, token)
            assert (status, read) == (401, 0), route.path


def test_body_that_is_too_long_is_refused_unread_and_the_missing_right_comes_first(place: Place) -> None:
    (route,) = [route for route in place.routes if route.name == "submit_job"]
    long = b" " * (2 * 1024 * 1024)
    assert place.ask(route, place.tokens[Role.WRITER], long)[::2] == (413, 0)
    assert place.ask(route, place.tokens[Role.READER], long)[::2] == (403, 0)


def test_every_route_with_a_body_says_who_may_send_it() -> None:
    router: APIRouter = room("/odd", "odd")
    assert router.route_class is StrictRoute

    def without(body: JobSubmission) -> None:
        """Take a body from anybody."""

    with pytest.raises(TypeError, match="nothing says who may send it"):
        router.post("")(without)
