"""Requests to a registry in this process that nobody waits for any more."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from sdk.api.embedded import EmbeddedTransport


class Registry:
    """Answers nothing; says when a request has come, and when it was given up."""

    def __init__(self) -> None:
        self.came, self.given_up, self.is_closed = threading.Event(), threading.Event(), threading.Event()
        self.state = SimpleNamespace(services=SimpleNamespace(db=SimpleNamespace(close=self.is_closed.set)))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.came.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.given_up.set()


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def client(registry: Registry) -> Iterator[httpx.Client]:
    client = httpx.Client(transport=EmbeddedTransport(registry), base_url="http://embedded")
    yield client
    client.close()
    assert registry.is_closed.is_set()


def test_who_asks_when_it_is_closed_is_told(registry: Registry, client: httpx.Client) -> None:
    errors: list[Exception] = []

    def ask() -> None:
        with pytest.raises(httpx.ReadError, match="closed meanwhile") as caught:
            client.get("/")
        errors.append(caught.value)

    asking = threading.Thread(target=ask)
    asking.start()
    assert registry.came.wait(10)
    client.close()
    asking.join(10)
    assert len(errors) == 1
    assert registry.given_up.is_set()


def test_a_request_whose_caller_is_interrupted_is_given_up(
    registry: Registry, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: object) -> None:
        assert registry.came.wait(10)
        raise KeyboardInterrupt

    monkeypatch.setattr("concurrent.futures.Future.result", interrupted)
    with pytest.raises(KeyboardInterrupt):
        client.get("/")
    assert registry.given_up.wait(10)
