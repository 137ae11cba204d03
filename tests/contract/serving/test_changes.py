"""The feed that says "look": when it does, what a waiter holds meanwhile, how many there may be, and how it ends."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from support import processes
from support.databases import new_database
from support.people import new_adapter
from support.registries import World
from support.statements import sent
from support.waiting import wait_until

from registry.access.tokens import Tokens
from registry.db.database import Database
from registry.http.ending import begin_to_end
from registry.jobs.event_feed import Watchers
from registry.principal import SYSTEM, Role
from registry.serving import changes
from registry.serving.changes import ChangeFeed
from registry.serving.changes import wait_until as wait_for
from sdk.api.serving import changed, table
from sdk.client import Client
from sdk.errors import NotFound, RateLimited


@pytest.fixture
def writer(acting: Callable[..., Client], space: str) -> Client:
    return acting(**{space: Role.WRITER})


@pytest.fixture
def gateway(acting: Callable[..., Client], space: str) -> Client:
    return acting(**{space: Role.SERVER})


@pytest.fixture
def feed(people: World, monkeypatch: pytest.MonkeyPatch) -> ChangeFeed:
    """The feed that the served registry's loop has from now on."""
    feed = ChangeFeed(people.services.db)
    monkeypatch.setattr("registry.serving.views.feed_of", lambda _db: feed)
    return feed


def edition_of(client: Client, space: str) -> str:
    found = table(client.transport, space)
    assert found is not None
    return found.edition


@contextmanager
def waiting(client: Client, space: str, feed: ChangeFeed, *, wait_s: float = 20.0) -> Iterator[Future[bool]]:
    """A gateway that waits, as the feed knows by now."""
    known = edition_of(client, space)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(changed, client.transport, space, after=known, wait_s=wait_s)
        wait_until(lambda: bool(feed._waiting.get(space)) and feed._begun.is_set())
        yield answer


def test_a_move_wakes_who_waits(gateway: Client, writer: Client, space: str, tmp_path: Path, feed: ChangeFeed) -> None:
    for _ in range(2):
        writer.push(new_adapter(tmp_path), f"{space}/a", base="tiny")
    steps: list[Callable[[], object]] = [
        lambda: writer.set_alias(f"{space}/a", "production", 1),
        lambda: writer.aliases.remove(f"{space}/a", "production"),
        lambda: writer.versions.archive(f"{space}/a@v2"),
        lambda: writer.push(new_adapter(tmp_path), f"{space}/a", base="tiny"),
    ]
    for step in steps:
        with waiting(gateway, space, feed) as answer:
            step()
            began = time.monotonic()
            assert answer.result()
            # A tick of the feed, and not the end of the wait.
            assert time.monotonic() - began < 10
    wait_until(lambda: feed._task is None)


def test_a_change_of_before_the_wait_is_noticed_at_once(
    gateway: Client, writer: Client, space: str, tmp_path: Path
) -> None:
    known = edition_of(gateway, space)
    writer.push(new_adapter(tmp_path), f"{space}/a", base="tiny")
    assert changed(gateway.transport, space, after=known)
    assert changed(gateway.transport, space, after="")


def test_a_change_elsewhere_wakes_nobody(
    gateway: Client, admin: Client, space: str, tmp_path: Path, feed: ChangeFeed
) -> None:
    with waiting(gateway, space, feed, wait_s=1.5) as answer:
        admin.push(new_adapter(tmp_path), f"{space}x/a", base="tiny")
        assert not answer.result()


def test_a_namespace_that_may_not_be_seen_is_not_waited_for(gateway: Client, feed: ChangeFeed) -> None:
    for asked in ("elsewhere", "nowhere"):
        with pytest.raises(NotFound, match="there is no namespace"):
            changed(gateway.transport, asked, after="")
    wait_until(lambda: not feed._waiting)


def test_waiters_hold_no_thread_and_no_connection(people: World, space: str, feed: ChangeFeed, admin: Client) -> None:
    """Three times as many as there are threads for views wait, and others are answered meanwhile."""
    secrets = [people.token(Role.SERVER, namespace=space) for _ in range(5)]
    known = edition_of(admin, space)

    async def wait_all() -> list[int]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=people.url, timeout=60, limits=limits) as http:
            params = {"namespace": space, "after": known, "wait_s": 20}
            return [
                answer.status_code
                for answer in await asyncio.gather(
                    *(
                        http.get(
                            "/api/v1/serving/changes",
                            params=params,
                            headers={"Authorization": f"Bearer {secrets[n % 5]}"},
                        )
                        for n in range(120)
                    )
                )
            ]

    with ThreadPoolExecutor(1) as pool:
        answers = pool.submit(asyncio.run, wait_all())
        wait_until(lambda: len(feed._waiting.get(space, ())) == 120)
        pooled = people.services.db.engine.pool
        wait_until(lambda: pooled.checkedout() == 0)  # type: ignore[attr-defined]
        before = threading.active_count()
        with sent(people.services.db) as asked:
            for _ in range(20):
                admin.tokens.whoami()
            time.sleep(3 * changes.TICK_S)
        # One look of all of them each tick.
        assert sum("audit_entries" in one.sql for one in asked) <= 20
        assert threading.active_count() <= before + 2
        people.services.aliases.protect(scope=f"{space}/*", alias="x", who=SYSTEM)
        assert set(answers.result()) == {200}


def test_a_token_and_all_together_have_so_many(
    people: World, gateway: Client, space: str, feed: ChangeFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    watchers = Watchers(most=4, most_of_token=1)
    monkeypatch.setitem(people.app.state.by_class, Watchers, watchers)
    with waiting(gateway, space, feed) as answer:
        with pytest.raises(RateLimited, match="REGISTRY_MAX_STREAMS_PER_TOKEN"):
            changed(gateway.transport, space, after=edition_of(gateway, space))
        # Without a wait, it is not counted.
        assert not changed(gateway.transport, space, after=edition_of(gateway, space), wait_s=0)
        people.services.aliases.protect(scope=f"{space}/*", alias="x", who=SYSTEM)
        assert answer.result()
    assert not watchers._by_token


def test_who_has_gone_is_waited_for_no_more(people: World, gateway: Client, space: str, feed: ChangeFeed) -> None:
    headers = {"Authorization": f"Bearer {gateway.config.token}"}
    params = {"namespace": space, "after": edition_of(gateway, space)}
    with pytest.raises(httpx.ReadTimeout):
        httpx.get(f"{people.url}/api/v1/serving/changes", params=params, headers=headers, timeout=1)
    wait_until(lambda: not feed._waiting, timeout_s=10)


def test_the_end_of_the_server_ends_a_wait() -> None:
    async def present() -> bool:
        return False

    async def ending() -> tuple[bool, float]:
        began = time.monotonic()
        waiter = asyncio.create_task(wait_for(asyncio.Event(), present, wait_s=60))
        await asyncio.sleep(0.1)
        begin_to_end()
        return await waiter, time.monotonic() - began

    answer, took_s = asyncio.run(ending())
    assert not answer
    assert took_s < 10


@pytest.mark.slow
def test_a_server_that_is_told_to_stop_answers_who_waits_and_stops(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    with new_database("sqlite", tmp_path, request) as url:
        db = Database(url)
        db.upgrade()
        secret = Tokens(db).create(name="gw", grants={"team": Role.SERVER}, who=SYSTEM).secret
        db.close()
        env = processes.environment(REGISTRY_DATABASE_URL=url, REGISTRY_STORAGE_URL=(tmp_path / "store").as_uri())
        port, log = processes.free_port(), tmp_path / "server.log"
        with ThreadPoolExecutor(1) as pool:
            with processes.serving(port, env=env, log=log):
                processes.wait_until_healthy(f"http://127.0.0.1:{port}", log=log)
                client = Client(f"http://127.0.0.1:{port}", secret)
                answer = pool.submit(changed, client.transport, "team", after=edition_of(client, "team"))
                time.sleep(1)
                assert not answer.done()
                began = time.monotonic()
            # It was told to stop, and has stopped: sooner than it would have cut the request.
            assert time.monotonic() - began < 8
            assert not answer.result()
            client.close()
        assert "graceful shutdown exceeded" not in log.read_text()
