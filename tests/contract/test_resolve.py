"""What `resolve` answers is what would be read of the version now, whatever was done before, by whichever process."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from sqlalchemy import delete, make_url, select
from support import calls, databases, processes
from support.adapters import base_registration
from support.people import new_adapter
from support.registries import World

from registry.access.tokens import Tokens
from registry.catalog.models import Adapter, Version, VersionDocument
from registry.catalog.versions.finding import find_version
from registry.catalog.versions.lifecycle import VersionState
from registry.catalog.versions.present import present
from registry.catalog.versions.resolve import Resolver
from registry.catalog.versions.service import Catalog
from registry.db.database import Database
from registry.errors import NotFound
from registry.jobs.member_views import ShownMembers
from registry.principal import SYSTEM, Principal, Role
from sdk.client import Client
from sdk.formats.refs import Ref
from sdk.schemas.catalog import Published


@pytest.fixture(scope="module")
def world(people: World) -> World:
    return people


def push(client: Client, tmp_path: Path, name: str) -> str:
    return client.push(new_adapter(tmp_path), name, base="tiny").ref


def continue_from(client: Client, tmp_path: Path, name: str, parent: str) -> str:
    """Publish a version that was made from another one."""
    folder = new_adapter(tmp_path)
    body = calls.publication(client, folder, name, parents=[{"ref": parent, "relation": "continued-from"}])
    return client.call("POST", "/versions", Published, body=body).version.ref


def resolve(http: httpx.Client, ref: str) -> httpx.Response:
    return http.get("/api/v1/resolve", params={"ref": ref})


def as_read_now(world: World, ref: str, who: Principal = SYSTEM) -> Any:
    """The version as it is read from all its rows, and not from the text that is stored of it."""
    with world.services.db.read() as session:
        version = find_version(session, Ref.parse(ref), who)
        return present(session, version, who).model_dump(mode="json")


def resolve_as_reader_of(world: World, namespace: str, ref: str) -> httpx.Response:
    """What a new reader's token finds."""
    token = world.token(Role.READER, namespace=namespace)
    with httpx.Client(base_url=world.url, headers={"Authorization": f"Bearer {token}"}) as http:
        return resolve(http, ref)


class TestAnswer:
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
            yield (
                "describe",
                lambda: writer.versions.annotate(f"{name}@v1", description='"quoted" — Grüße', note="kept\n2"),
            )
            yield "tag", lambda: writer.versions.annotate(f"{name}@v2", tags={"language": "python"})
            yield "archive the latest", lambda: writer.versions.archive(f"{name}@v3")
            yield "restore it", lambda: writer.versions.restore(f"{name}@v3")
            yield "remove an alias", lambda: writer.aliases.remove(name, "staging")
            yield "archive an older one", lambda: writer.versions.archive(f"{name}@v2")
            yield "delete the latest", lambda: admin.versions.delete(f"{name}@v3")
            yield "publish again", lambda: push(writer, tmp_path, name)

        for what, step in steps():
            step()
            newest = writer.get(name)
            digests.append(newest.digest)
            refs = [name, *(f"{name}@{selector}" for selector in ("latest", "production", "staging", "v1", "v9"))]
            refs += [f"{name}@v{number}" for number in range(2, 5)] + [f"{name}@sha256:{digits}" for digits in digests]
            for ref in refs:
                answer = resolve(world.http, ref)
                assert answer.headers["content-type"] == "application/json"
                if answer.status_code == 200:
                    assert answer.json() == as_read_now(world, ref), (what, ref)
                else:
                    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found"), (what, ref)
                    with pytest.raises(NotFound):
                        as_read_now(world, ref)
        admin.close()

    def test_a_namespace_and_every_spelling_of_a_ref(self, world: World, name: str, tmp_path: Path) -> None:
        ref = push(world.writer, tmp_path, f"team/{name}")
        body = resolve(world.http, ref).content
        for query in (
            f"ref=team/{name}",
            f"ref=team%2F{name}@v1",
            f"ref=team%2f{name}%40latest",
            f"ref=team/{name}@v1",
            f"x=1&ref=team/{name}",
            f"ref=missing&ref=team/{name}",
        ):
            answer = world.http.get(f"/api/v1/resolve?{query}")
            assert (answer.status_code, answer.content) == (200, body), query

    def test_what_is_no_ref_or_names_nothing_is_explained(self, world: World, name: str, tmp_path: Path) -> None:
        push(world.writer, tmp_path, name)
        for query, status, code, param in (
            ("", 422, "invalid", "ref"),
            ("ref=", 422, "invalid_name", "ref"),
            (f"ref={name}%00", 422, "invalid", None),
            (f"ref={name}%C3%A9", 422, "invalid_name", "ref"),
            (f"ref={name.upper()}", 422, "invalid_name", "ref"),
            ("ref=../x", 422, "invalid_name", "ref"),
            (f"ref={name}@v01", 422, "invalid_ref", "ref"),
            (f"ref={name}@sha256:12", 422, "invalid_ref", "ref"),
            (f"ref={'a' * 1001}", 422, "invalid", "ref"),
            (f"ref={name}@sha256:{'0' * 12}", 404, "not_found", "ref"),
            (f"ref={name}@missing", 404, "not_found", "ref"),
            (f"ref={name}-2", 404, "not_found", "adapter"),
        ):
            answer = world.http.get(f"/api/v1/resolve?{query}")
            error = answer.json()["error"]
            assert (answer.status_code, error["code"], error["param"]) == (status, code, param), (query, answer.text)


class TestWhoMaySee:
    def test_only_readers_of_its_namespace_find_a_version(self, world: World, name: str, tmp_path: Path) -> None:
        push(world.writer, tmp_path, f"team/{name}")
        for namespace, status in (("team", 200), ("*", 200), ("other", 404), ("-", 404)):
            assert resolve_as_reader_of(world, namespace, f"team/{name}").status_code == status, namespace

    def test_parents_of_other_namespaces_are_not_shown_to_those_who_may_not_see_them(
        self, world: World, name: str, tmp_path: Path
    ) -> None:
        parent = push(world.writer, tmp_path, f"secret/{name}")
        child = continue_from(world.writer, tmp_path, f"team/{name}", parent)
        assert resolve(world.http, child).json()["parents"][0]["ref"] == parent
        assert resolve_as_reader_of(world, "team", child).json()["parents"] == []

    def test_a_version_without_a_stored_text_is_read_from_its_rows(
        self, world: World, name: str, tmp_path: Path
    ) -> None:
        push(world.writer, tmp_path, name)
        world.writer.set_alias(name, "production", 1)
        with world.services.db.write() as session:
            version = session.scalars(select(Version).join(Adapter).where(Adapter.name == name)).one()
            session.execute(delete(VersionDocument).where(VersionDocument.version_pk == version.pk))
        for selector in ("v1", "latest", "production"):
            assert resolve(world.http, f"{name}@{selector}").json() == as_read_now(world, f"{name}@{selector}")

    def test_a_quarantined_version_is_found_by_its_digest_only(self, world: World, name: str, tmp_path: Path) -> None:
        push(world.writer, tmp_path, name)
        world.writer.set_alias(name, "production", 1)
        with world.services.db.write() as session:
            version = session.scalars(select(Version).join(Adapter).where(Adapter.name == name)).one()
            version.state = VersionState.QUARANTINED
        for selector in ("v1", "latest", "production"):
            assert resolve(world.http, f"{name}@{selector}").status_code == 404
        assert resolve(world.http, f"{name}@sha256:{version.digest}").status_code == 200


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
                deadline = time.monotonic() + 1
                slowest = 0.0
                while time.monotonic() < deadline:
                    began = time.monotonic()
                    assert httpx.get(f"{world.url}/healthz").status_code == 200
                    slowest = max(slowest, time.monotonic() - began)
                assert not waiting.done()
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
        ref = push(world.writer, tmp_path, name)
        with closing(Database(world.services.db.url)) as db:
            resolver = Resolver(db, Catalog(db, ShownMembers(db)))

            def ask() -> set[str]:
                async def many() -> set[str]:
                    return set(await asyncio.gather(*(resolver.resolve(ref, who=SYSTEM) for _ in range(40))))

                return asyncio.run(many())

            with ThreadPoolExecutor(3) as pool:
                found = set().union(*(done.result() for done in [pool.submit(ask) for _ in range(3)]))
        assert found == {resolve(world.http, name).text}


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
            stack.enter_context(processes.serving(port, env=env, log=log))
            servers.append((f"http://127.0.0.1:{port}", log))
        for url, log in servers:
            processes.wait_until_healthy(url, log=log)
        writer = Client(servers[0][0], token, cache=tmp_path / "cache")
        stack.callback(writer.close)
        writer.bases.register(base_registration())
        for _ in range(2):
            push(writer, tmp_path, "bench")
        readers = [
            stack.enter_context(httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}))
            for url, _ in servers
        ]
        # The other process reads all the while, several times a turn, so that its connections have seen every state in between.
        stop = threading.Event()

        def keep_reading() -> int:
            asked = 0
            with httpx.Client(base_url=servers[1][0], headers={"Authorization": f"Bearer {token}"}) as http:
                while not stop.wait(0.002):
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
                writer.versions.archive("bench@v1")
                assert {resolve(reader, "bench@v1").json()["state"] for reader in readers} == {"archived"}
            finally:
                stop.set()
            assert min(done.result() for done in reading) > 0
