"""What the look-up of `resolve` answers is what the route behind it answers, whatever was done before, by whichever process."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import psycopg
import pytest
from sqlalchemy import delete, make_url, select
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from support import databases, processes, registries
from support.adapters import base_registration, digest, save_adapter
from support.registries import World

from registry.access.tokens import Tokens
from registry.catalog.models import Adapter, Version, VersionDocument
from registry.catalog.versions.finding import find_version
from registry.catalog.versions.hot_resolve import HotResolve
from registry.catalog.versions.lifecycle import VersionState
from registry.catalog.versions.present import view_version
from registry.db.database import Database
from registry.db.lookups import Lookups
from registry.principal import SYSTEM, Principal, Role
from sdk.client import Client
from sdk.formats.refs import Ref
from sdk.pushing.pack import pack_adapter
from sdk.schemas.catalog import Publication, Published

#: Each adapter of the run has bytes of its own.
SEEDS = itertools.count(900_000)

BEHIND = 418


@pytest.fixture(scope="module", params=databases.KINDS)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp(request.param)
    with ExitStack() as stack:
        url = stack.enter_context(databases.new_database(request.param, folder, request))
        storage = (folder / "artifacts").as_uri()
        found = stack.enter_context(registries.served(folder, database_url=url, storage_url=storage))
        found.admin.register_base(base_registration())
        yield found


@pytest.fixture
def name() -> str:
    """The name of an adapter that no other test has."""
    return f"adapter-{uuid.uuid4().hex[:12]}"


def push(client: Client, tmp_path: Path, name: str) -> str:
    seed = next(SEEDS)
    return client.push(save_adapter(tmp_path / f"adapter-{seed}", seed), name, base="tiny").ref


def continue_from(client: Client, tmp_path: Path, name: str, parent: str) -> str:
    """Publish a version that was made from another one."""
    seed = next(SEEDS)
    staging = tmp_path / f"staging-{seed}"
    staging.mkdir()
    package = pack_adapter(
        save_adapter(tmp_path / f"adapter-{seed}", seed),
        base_id="tiny",
        base_revision="0" * 40,
        base_fingerprint=digest("tiny: base"),
        staging=staging,
    )
    body = Publication.model_validate(
        {
            "adapter": name,
            "upload": client.upload(package.sources, "uploading"),
            "manifest": package.manifest,
            "lora": package.lora,
            "parents": [{"ref": parent, "relation": "continued-from"}],
        }
    )
    return client.call("POST", "/versions", Published, body=body).version.ref


def resolve(http: httpx.Client, ref: str, *, slowly: bool = False) -> httpx.Response:
    # A query of more than one ref is not for the look-up; the route passes the rest over.
    return http.get("/api/v1/resolve", params={"ref": ref, **({"slowly": "1"} if slowly else {})})


def looked_up(world: World, target: str, who: Principal = SYSTEM, **headers: str) -> httpx.Response:
    """What the look-up alone answers: `BEHIND` where it leaves a request to the route behind it."""

    async def behind(scope: Scope, receive: Receive, send: Send) -> None:
        await Response(status_code=BEHIND)(scope, receive, send)

    hot = HotResolve(behind, lookups=world.services.lookups)

    async def known(scope: Scope, receive: Receive, send: Send) -> None:
        scope["principal"] = who
        await hot(scope, receive, send)

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(known), base_url="http://in-process") as client:
            return await client.get(target, headers=headers)

    return asyncio.run(ask())


class TestSameAnswer:
    def test_after_every_kind_of_change(self, world: World, name: str, tmp_path: Path) -> None:
        writer, admin = world.writer, world.client(Role.ADMIN)
        first = push(writer, tmp_path, name)
        digests = [writer.get(first).digest]

        def steps() -> Iterator[tuple[str, Callable[[], object]]]:
            yield "publish", lambda: push(writer, tmp_path, name)
            yield "publish with a parent", lambda: continue_from(writer, tmp_path, name, first)
            yield "set", lambda: writer.set_alias(name, "production", 1)
            yield "move", lambda: writer.set_alias(name, "production", 2)
            yield "another alias", lambda: writer.set_alias(name, "staging", 2)
            yield "roll back", lambda: writer.rollback(name, "production")
            yield "describe", lambda: writer.annotate(f"{name}@v1", description='"quoted" — Grüße', note="kept\n2")
            yield "tag", lambda: writer.annotate(f"{name}@v2", tags={"language": "python"})
            yield "archive the latest", lambda: writer.archive(f"{name}@v3")
            yield "restore it", lambda: writer.restore(f"{name}@v3")
            yield "remove an alias", lambda: writer.remove_alias(name, "staging")
            yield "archive an older one", lambda: writer.archive(f"{name}@v2")
            yield "delete the latest", lambda: admin.delete(f"{name}@v3")
            yield "publish again", lambda: push(writer, tmp_path, name)

        seen = set()
        for what, step in steps():
            step()
            newest = writer.get(name)
            digests.append(newest.digest)
            refs = [name, *(f"{name}@{selector}" for selector in ("latest", "production", "staging", "v1", "v9"))]
            refs += [f"{name}@v{number}" for number in range(2, 5)] + [f"{name}@sha256:{digits}" for digits in digests]
            for ref in refs:
                hot, slow = resolve(world.http, ref), resolve(world.http, ref, slowly=True)
                assert (hot.status_code, hot.content) == (slow.status_code, slow.content), (what, ref)
                assert hot.headers["content-type"] == slow.headers["content-type"] == "application/json"
                if hot.status_code == 200:
                    # The stored text is what would be written now.
                    with world.services.db.read() as session:
                        version = find_version(session, Ref.parse(ref), SYSTEM)
                        assert hot.json() == view_version(session, version, SYSTEM).model_dump(mode="json"), (what, ref)
                seen.add((hot.status_code, looked_up(world, f"/api/v1/resolve?ref={ref}").status_code))
        # Both ways were taken, and nothing was found by the look-up alone.
        assert seen == {(200, 200), (200, BEHIND), (404, BEHIND)}
        admin.close()

    def test_a_namespace_and_every_spelling_of_a_ref(self, world: World, name: str, tmp_path: Path) -> None:
        ref = push(world.writer, tmp_path, f"team/{name}")
        body = resolve(world.http, ref, slowly=True).content
        for query in (
            f"ref=team/{name}",
            f"ref=team%2F{name}@v1",
            f"ref=team%2f{name}%40latest",
            f"ref=team/{name}@v1",
        ):
            answer = looked_up(world, f"/api/v1/resolve?{query}")
            assert (answer.status_code, answer.content) == (200, body), query

    def test_what_is_not_one_plain_ref_is_left_to_the_route(self, world: World, name: str, tmp_path: Path) -> None:
        push(world.writer, tmp_path, name)
        for target in (
            "/api/v1/resolve",
            "/api/v1/resolve?ref=",
            f"/api/v1/resolve?ref={name}&ref={name}",
            f"/api/v1/resolve?x=1&ref={name}",
            f"/api/v1/resolve?ref={name}%00",
            f"/api/v1/resolve?ref={name}%C3%A9",
            f"/api/v1/resolve?ref={name.upper()}",
            f"/api/v1/resolve?ref={name}@v01",
            f"/api/v1/resolve?ref={name}@sha256:{'0' * 12}",
            f"/api/v1/resolve?ref={name}@missing",
            f"/api/v1/resolve/?ref={name}",
            f"/api/v1/adapters?ref={name}",
        ):
            assert looked_up(world, target).status_code == BEHIND, target
        assert looked_up(world, f"/api/v1/resolve?ref={name}").status_code == 200
        assert looked_up(world, f"/api/v1/resolve?ref={name}", **{"content-length": "2"}).status_code == BEHIND


class TestWhoMaySee:
    def test_only_readers_of_its_namespace_find_a_version(self, world: World, name: str, tmp_path: Path) -> None:
        push(world.writer, tmp_path, f"team/{name}")
        target = f"/api/v1/resolve?ref=team/{name}"
        for namespace, status in (("team", 200), ("*", 200), ("other", BEHIND), ("-", BEHIND)):
            assert looked_up(world, target, Principal("r", {namespace: Role.READER})).status_code == status, namespace
        stranger = world.client(Role.READER, namespace="other")
        with httpx.Client(base_url=world.url, headers={"Authorization": f"Bearer {stranger.config.token}"}) as http:
            assert resolve(http, f"team/{name}").status_code == 404
        stranger.close()

    def test_parents_of_other_namespaces_are_not_shown_to_those_who_may_not_see_them(
        self, world: World, name: str, tmp_path: Path
    ) -> None:
        parent = push(world.writer, tmp_path, f"secret/{name}")
        child = continue_from(world.writer, tmp_path, f"team/{name}", parent)
        target = f"/api/v1/resolve?ref={child}"
        assert looked_up(world, target).json()["parents"][0]["ref"] == parent
        assert looked_up(world, target, Principal("r", {"team": Role.READER})).status_code == BEHIND
        reader = world.client(Role.READER, namespace="team")
        assert reader.get(child).info.parents == []
        reader.close()

    def test_no_token_and_a_wrong_one_are_refused_as_everywhere(self, world: World, name: str, tmp_path: Path) -> None:
        push(world.writer, tmp_path, name)
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic wrong"}):
            answer = httpx.get(f"{world.url}/api/v1/resolve", params={"ref": name}, headers=headers)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")

    def test_quarantined_and_undocumented_versions_are_left_to_the_route(
        self, world: World, name: str, tmp_path: Path
    ) -> None:
        push(world.writer, tmp_path, name)
        world.writer.set_alias(name, "production", 1)
        with world.services.db.write() as session:
            version = session.scalars(select(Version).join(Adapter).where(Adapter.name == name)).one()
            session.execute(delete(VersionDocument).where(VersionDocument.version_pk == version.pk))
        for selector in ("v1", "latest", "production"):
            assert looked_up(world, f"/api/v1/resolve?ref={name}@{selector}").status_code == BEHIND
            assert resolve(world.http, f"{name}@{selector}").json()["number"] == 1
        with world.services.db.write() as session:
            row = session.get_one(Version, version.pk)
            row.state = VersionState.QUARANTINED
            session.add(VersionDocument(version_pk=row.pk, body="{}", foreign=False))
        for selector in ("v1", "latest", "production"):
            assert looked_up(world, f"/api/v1/resolve?ref={name}@{selector}").status_code == BEHIND
            assert resolve(world.http, f"{name}@{selector}").status_code == 404


class TestBusyDatabase:
    @pytest.mark.alone
    def test_a_locked_table_delays_the_answer_and_not_the_process(
        self, world: World, name: str, tmp_path: Path
    ) -> None:
        push(world.writer, tmp_path, name)
        resolve(world.http, name)
        url = make_url(world.services.db.url)
        with ThreadPoolExecutor(1) as pool:
            if url.get_backend_name() == "sqlite":
                # Readers of a file in WAL mode wait for no writer at all.
                with sqlite3.connect(str(url.database), isolation_level=None) as holder:
                    holder.execute("BEGIN EXCLUSIVE")
                    answer = resolve(world.http, name)
                    holder.execute("ROLLBACK")
                holder.close()
                assert answer.status_code == 200
                return
            with psycopg.connect(url.set(drivername="postgresql").render_as_string(hide_password=False)) as lock:
                lock.execute("LOCK TABLE version_documents IN ACCESS EXCLUSIVE MODE")
                waiting = pool.submit(resolve, world.http, name)
                deadline = time.monotonic() + 2
                slowest = 0.0
                while time.monotonic() < deadline:
                    began = time.monotonic()
                    assert httpx.get(f"{world.url}/healthz").status_code == 200
                    slowest = max(slowest, time.monotonic() - began)
                assert not waiting.done()
                # The look-up gives up, and the route behind it waits.
                assert looked_up(world, f"/api/v1/resolve?ref={name}").status_code == BEHIND
                lock.rollback()
            assert waiting.result(10).status_code == 200
            assert slowest < 0.5

    def test_connections_that_were_cut_are_replaced(self, world: World, name: str, tmp_path: Path) -> None:
        push(world.writer, tmp_path, name)
        url = make_url(world.services.db.url)
        assert resolve(world.http, name).status_code == 200
        if url.get_backend_name() == "postgresql":
            with psycopg.connect(
                url.set(drivername="postgresql").render_as_string(hide_password=False), autocommit=True
            ) as other:
                others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                other.execute(f"{others} WHERE datname = current_database() AND pid <> pg_backend_pid()")
        world.services.db.close()
        assert {resolve(world.http, name).status_code for _ in range(10)} == {200}

    def test_nobody_listens_to_every_statement(self, world: World, name: str, tmp_path: Path) -> None:
        push(world.writer, tmp_path, name)
        assert resolve(world.http, name).status_code == 200
        # Listeners to an engine's events, of whatever kind, make each statement look for them.
        assert not world.services.db.engine._has_events

    def test_many_at_once_from_several_threads_and_loops(self, world: World, name: str, tmp_path: Path) -> None:
        push(world.writer, tmp_path, name)
        lookups = Lookups(Database(world.services.db.url))
        body = resolve(world.http, name).content

        def ask() -> set[bytes]:
            hot = HotResolve(_never, lookups=lookups)

            async def known(scope: Scope, receive: Receive, send: Send) -> None:
                scope["principal"] = SYSTEM
                await hot(scope, receive, send)

            async def many() -> set[bytes]:
                async with httpx.AsyncClient(transport=httpx.ASGITransport(known), base_url="http://x") as client:
                    asked = [client.get(f"/api/v1/resolve?ref={name}") for _ in range(40)]
                    return {answer.content for answer in await asyncio.gather(*asked)}

            return asyncio.run(many())

        with ThreadPoolExecutor(3) as pool:
            assert set().union(*(done.result() for done in [pool.submit(ask) for _ in range(3)])) == {body}
        lookups._db.close()


async def _never(scope: Scope, receive: Receive, send: Send) -> None:
    raise AssertionError("the look-up left a request to the route behind it")


@pytest.mark.slow
@pytest.mark.parametrize("kind", databases.KINDS)
def test_what_one_server_process_wrote_every_other_one_answers(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        database_url = stack.enter_context(databases.new_database(kind, tmp_path, request))
        db = Database(database_url)
        stack.callback(db.close)
        db.upgrade()
        token = Tokens(db).create(name="ops", grants={"*": Role.ADMIN}, who=SYSTEM).secret
        env = processes.environment(
            REGISTRY_DATABASE_URL=database_url, REGISTRY_STORAGE_URL=(tmp_path / "artifacts").as_uri()
        )
        servers = []
        for n in range(2):
            port, log = processes.free_port(), tmp_path / f"server-{n}.log"
            command = ("adapter-registry", "serve", "--port", str(port))
            stack.enter_context(processes.running(*command, env=env, log=log))
            servers.append((f"http://127.0.0.1:{port}", log))
        for url, log in servers:
            processes.wait_until_healthy(url, log=log)
        writer = Client(servers[0][0], token, cache=tmp_path / "cache")
        stack.callback(writer.close)
        writer.register_base(base_registration())
        for _ in range(2):
            push(writer, tmp_path, "bench")
        readers = [
            stack.enter_context(httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}))
            for url, _ in servers
        ]
        # The other process reads all the while, so that its connections have seen every state in between.
        stop = threading.Event()

        def keep_reading() -> int:
            asked = 0
            with httpx.Client(base_url=servers[1][0], headers={"Authorization": f"Bearer {token}"}) as http:
                while not stop.is_set():
                    assert resolve(http, "bench@latest").status_code == 200
                    asked += 1
            return asked

        with ThreadPoolExecutor(2) as pool:
            reading = [pool.submit(keep_reading) for _ in range(2)]
            try:
                for turn in range(60):
                    number = 1 + turn % 2
                    writer.set_alias("bench", "production", number)
                    found = [resolve(reader, "bench@production").json()["number"] for reader in readers]
                    assert found == [number, number]
                writer.archive("bench@v1")
                assert {resolve(reader, "bench@v1").json()["state"] for reader in readers} == {"archived"}
            finally:
                stop.set()
            assert min(done.result() for done in reading) > 0
