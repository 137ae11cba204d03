"""The table of a namespace: what is in it, for whom, when it changes, and what it costs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from support.adapters import digest
from support.people import bare_http, new_adapter
from support.registries import World
from support.shelf import Made, Shelf
from support.statements import plan_of, sent

from registry.errors import Conflict
from registry.principal import LOCAL, Role
from registry.serving.tables import Tables
from sdk.api.serving import MOST_ASKED, changed, table
from sdk.client import Client
from sdk.errors import InvalidInput, InvalidName, NotFound
from sdk.schemas.serving import ServedAdapter, ServingTable


@pytest.fixture
def writer(acting: Callable[..., Client], space: str) -> Client:
    return acting(**{space: Role.WRITER})


@pytest.fixture
def shelf(people: World) -> Shelf:
    return Shelf(people.services.db)


def table_of(client: Client, space: str) -> ServingTable:
    found = table(client.transport, space)
    assert found is not None
    return found


def made(tables: Tables, space: str) -> ServingTable:
    _, body = tables.make(space, tables.edition(space, who=LOCAL))
    return ServingTable.model_validate_json(body)


def numbers(adapter: ServedAdapter) -> list[int]:
    return [version.number for version in adapter.versions]


class TestContent:
    def test_a_table_says_what_each_name_means(self, writer: Client, admin: Client, space: str, tmp_path: Path) -> None:
        for name in ("b", "a"):
            for _ in range(2):
                writer.push(new_adapter(tmp_path), f"{space}/{name}", base="tiny")
        for alias, number in (("production", 1), ("beta", 2), ("canary", 1)):
            writer.set_alias(f"{space}/a", alias, number)
        writer.versions.archive(f"{space}/b@v2")
        found = table_of(writer, space)
        assert (found.namespace, found.left_out) == (space, False)
        assert [(one.name, one.latest, one.aliases) for one in found.adapters] == [
            (f"{space}/a", 2, {"production": 1, "beta": 2, "canary": 1}),
            (f"{space}/b", 1, {}),
        ]
        assert [[(one.number, one.state) for one in adapter.versions] for adapter in found.adapters] == [
            [(1, "ready"), (2, "ready")],
            [(1, "ready"), (2, "archived")],
        ]
        first = found.adapters[0].versions[0]
        assert (first.digest, first.base) == (writer.get(f"{space}/a@v1").digest, digest("tiny: base"))
        admin.versions.delete(f"{space}/b@v1")
        assert [(one.latest, numbers(one)) for one in table_of(writer, space).adapters] == [(2, [1, 2]), (None, [2])]

    def test_what_may_not_be_served_is_left_out(self, people: World, shelf: Shelf, space: str) -> None:
        states = ("ready", "archived", "quarantined", "failed", "deleted", "pending")
        shelf.add(
            [
                Made(f"{space}/a", None if state == "quarantined" else number, state=state)
                for number, state in enumerate(states, start=1)
            ]
        )
        (adapter,) = made(Tables(people.services.db), space).adapters
        assert numbers(adapter) == [1, 2]

    def test_a_namespace_without_adapters_has_an_empty_table(self, admin: Client, space: str) -> None:
        assert table_of(admin, space).adapters == []


class TestRights:
    @pytest.mark.parametrize("role", list(Role))
    def test_every_role_reads_the_table_of_its_namespace(
        self, acting: Callable[..., Client], space: str, role: Role
    ) -> None:
        assert table_of(acting(**{space: role}), space).adapters == []

    def test_a_namespace_that_is_not_there_and_one_that_may_not_be_seen_are_answered_alike(
        self, acting: Callable[..., Client], writer: Client, space: str, tmp_path: Path
    ) -> None:
        writer.push(new_adapter(tmp_path), f"{space}/a", base="tiny")
        stranger = acting(other=Role.SERVER)
        answers = []
        for asked in (space, "nowhere"):
            with pytest.raises(NotFound) as refused:
                table(stranger.transport, asked)
            answers.append(refused.value.message.replace(asked, "X"))
        assert answers[0] == answers[1]
        # All namespaces together have no table, though everybody may read what belongs to all.
        for asked in ("*", "A/B", ""):
            with pytest.raises(InvalidName):
                table(stranger.transport, asked)

    def test_names_of_others_are_in_no_table(
        self, acting: Callable[..., Client], writer: Client, admin: Client, space: str, tmp_path: Path
    ) -> None:
        writer.push(new_adapter(tmp_path), f"{space}/a", base="tiny")
        admin.push(new_adapter(tmp_path), f"{space}x/secret", base="tiny")
        with bare_http(writer.config.url, writer.config.token or "") as http:
            assert "secret" not in http.get("/api/v1/serving/table", params={"namespace": space}).text


class TestEditions:
    def test_an_unchanged_table_is_not_sent_again(self, writer: Client, space: str, tmp_path: Path) -> None:
        writer.push(new_adapter(tmp_path), f"{space}/a", base="tiny")
        edition = table_of(writer, space).edition
        assert table(writer.transport, space, known=edition) is None
        assert table(writer.transport, space, known="0" * 32) == table_of(writer, space)
        with bare_http(writer.config.url, writer.config.token or "") as http:
            for header in (f'"{edition}"', f'W/"{edition}"', f'"x", "{edition}"'):
                answer = ask(http, space, header)
                assert (answer.status_code, answer.content, answer.headers["ETag"]) == (304, b"", f'"{edition}"')
            for header in (edition, f'"{edition[:-1]}"', ""):
                assert ask(http, space, header).status_code == 200

    def test_everything_that_the_table_shows_changes_its_edition(
        self, writer: Client, admin: Client, space: str, tmp_path: Path
    ) -> None:
        name = f"{space}/a"
        steps: list[Callable[[], object]] = [
            lambda: writer.push(new_adapter(tmp_path), name, base="tiny"),
            lambda: writer.push(new_adapter(tmp_path), name, base="tiny"),
            lambda: writer.set_alias(name, "production", 1),
            lambda: writer.set_alias(name, "production", 2),
            lambda: writer.set_alias(name, "production", 1),
            lambda: writer.rollback(name, "production", expect=1),
            lambda: writer.aliases.remove(name, "production"),
            lambda: writer.versions.archive(f"{name}@v2"),
            lambda: writer.versions.restore(f"{name}@v2"),
            lambda: admin.versions.delete(f"{name}@v1"),
        ]
        seen = [table_of(writer, space)]
        for step in steps:
            step()
            seen.append(table_of(writer, space))
            assert table(writer.transport, space, known=seen[-2].edition) == seen[-1]
            assert seen[-2].edition != seen[-1].edition

    def test_what_happens_elsewhere_leaves_the_edition(
        self, writer: Client, admin: Client, space: str, tmp_path: Path
    ) -> None:
        before = table_of(writer, space).edition
        admin.push(new_adapter(tmp_path), f"{space}x/a", base="tiny")
        writer.tokens.whoami()
        assert table(writer.transport, space, known=before) is None


def ask(http: httpx.Client, space: str, known: str) -> httpx.Response:
    return http.get("/api/v1/serving/table", params={"namespace": space}, headers={"If-None-Match": known})


class TestBounds:
    def test_beyond_its_bound_a_table_has_what_is_named_and_what_is_newest(
        self, people: World, shelf: Shelf, space: str
    ) -> None:
        shelf.add([Made(f"{space}/a", number, aliases=["old"] if number == 2 else ()) for number in range(1, 31)])
        shelf.add([Made(f"{space}/b", 1)])
        tables = Tables(people.services.db, most_names=4, most_versions=6)
        found = made(tables, space)
        assert found.left_out
        assert [(one.latest, one.aliases, numbers(one)) for one in found.adapters] == [
            (30, {"old": 2}, [2, *range(22, 31)]),
            (1, {}, [1]),
        ]

    def test_too_many_names_are_refused(self, people: World, shelf: Shelf, space: str) -> None:
        shelf.add([Made(f"{space}/a{number}", 1, aliases=["x"]) for number in range(3)])
        assert len(made(Tables(people.services.db, most_names=6), space).adapters) == 3
        with pytest.raises(Conflict, match="more than 5 adapters and aliases"):
            made(Tables(people.services.db, most_names=5), space)

    def test_names_of_neighbours_are_in_no_table_of_named_adapters(
        self, people: World, shelf: Shelf, writer: Client, space: str
    ) -> None:
        shelf.add([Made(f"{space}/a", number, aliases=["x"] if number == 1 else ()) for number in (1, 2)])
        mine = [f"{space}/none", f"{space}/a"]
        before = table(writer.transport, space, mine)
        assert before is not None
        assert [(one.name, one.aliases) for one in before.adapters] == [(f"{space}/a", {"x": 1})]
        shelf.add([Made(f"{space}/b{number}", 1, aliases=["x"]) for number in range(3)])
        assert table(writer.transport, space, mine[::-1], known=before.edition) is None
        assert not changed(writer.transport, space, mine, after=before.edition, wait_s=0)
        assert changed(writer.transport, space, after=before.edition, wait_s=0)
        tables = Tables(people.services.db, most_names=3, most_versions=1)
        edition = tables.edition(space, mine, who=LOCAL)
        assert edition == before.edition
        with sent(people.services.db) as asked:
            _, body = tables.make(space, edition, mine)
        assert ServingTable.model_validate_json(body) == before
        assert sum("versions" in one.sql for one in asked) == 1
        shelf.add([Made(f"{space}/a", 3, aliases=["y", "z"])])
        with pytest.raises(Conflict, match="adapters asked for have more than 3"):
            tables.edition(space, mine, who=LOCAL)
        assert table(writer.transport, space, mine, known=before.edition) is not None

    def test_named_adapters_are_few_and_of_the_namespace(self, writer: Client, space: str) -> None:
        assert table(writer.transport, space, [f"{space}/a{number}" for number in range(MOST_ASKED)]) is not None
        for names in (["a"], [f"{space}x/a"], [f"{space}/A B"], [""], [f"{space}/a"] * (MOST_ASKED + 1)):
            with pytest.raises(InvalidInput):
                table(writer.transport, space, names)

    def test_a_table_is_one_statement_and_its_edition_reads_no_version(
        self, people: World, shelf: Shelf, space: str
    ) -> None:
        shelf.add([Made(f"{space}/a", number) for number in range(1, 200)])
        db = people.services.db
        tables = Tables(db)
        with sent(db) as asked:
            edition = tables.edition(space, who=LOCAL)
        assert len(asked) == 2
        assert not any("versions" in one.sql.split("FROM")[1] for one in asked)
        assert any("ix_adapters_namespace_name" in line for line in plan_of(db, asked[0])) or not db.is_sqlite
        with sent(db) as asked:
            tables.make(space, edition)
        assert sum("versions" in one.sql for one in asked) == 1
        # What was made is kept.
        with sent(db) as asked:
            assert tables.kept(space, edition) is not None
        assert asked == []

    def test_little_is_kept(self, people: World, shelf: Shelf, space: str) -> None:
        spaces = [f"{space}-{number}" for number in range(4)]
        shelf.add([Made(f"{one}/a", 1) for one in spaces])
        tables = Tables(people.services.db, kept_bytes=900)
        editions = {one: tables.make(one, tables.edition(one, who=LOCAL))[0] for one in spaces}
        assert [tables.kept(one, edition) is not None for one, edition in editions.items()] == [
            False,
            False,
            True,
            True,
        ]

    def test_many_gateways_at_once_are_one_table(self, people: World, shelf: Shelf, space: str) -> None:
        shelf.add([Made(f"{space}/a", number) for number in range(1, 50)])
        barrier, secret = threading.Barrier(12), people.token(Role.SERVER, namespace=space)

        def one(_number: int) -> str:
            with bare_http(people.url, secret) as http:
                barrier.wait()
                return http.get("/api/v1/serving/table", params={"namespace": space}).text

        with sent(people.services.db) as asked, ThreadPoolExecutor(12) as pool:
            assert len(set(pool.map(one, range(12)))) == 1
        assert sum("versions" in statement.sql for statement in asked) == 1
