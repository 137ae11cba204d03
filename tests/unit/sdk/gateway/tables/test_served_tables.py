"""The gateway's tables: looked up, kept in a file, and gone as soon as the registry says so."""

from __future__ import annotations

import asyncio
import os
import stat
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support.serving_engine import adapter

from sdk.errors import (
    AdapterctlError,
    Conflict,
    Incompatible,
    NotAllowed,
    NotFound,
    RateLimited,
    TimedOut,
    Unauthenticated,
    Unavailable,
)
from sdk.gateway.tables.served_tables import ServedTables
from sdk.gateway.tables.table_file import TableFile
from sdk.schemas.serving import ServedAdapter, ServingTable


class Registry:
    """One that answers as a test says."""

    look_s, has_feed = 0.02, False

    def __init__(self, *adapters: ServedAdapter) -> None:
        self.adapters = adapters
        self.edition = 1
        self.error: AdapterctlError | None = None
        self.known: list[str | None] = []
        self.changes = asyncio.Event()

    async def table(self, namespace: str, known: str | None) -> ServingTable | None:
        self.known.append(known)
        if self.error is not None:
            raise self.error
        if known == str(self.edition):
            return None
        return ServingTable(
            namespace=namespace, edition=str(self.edition), left_out=False, adapters=list(self.adapters)
        )

    async def changed(self, _namespace: str, after: str) -> bool:
        while after == str(self.edition):
            await self.changes.wait()
            self.changes.clear()
        return True

    def move(self, *adapters: ServedAdapter) -> None:
        self.adapters, self.edition = adapters, self.edition + 1
        self.changes.set()


V1, V2 = adapter("sql", 1, production=1), adapter("sql", 1, 2, production=2)


def tables_of(
    registry: Registry, root: Path, lines: list[str] | None = None, *, refused_s: float = 60.0
) -> ServedTables:
    file = TableFile.of(root, "https://registry.example.com", "-", ["sql"])
    return ServedTables(registry, {"-": file}, say=(lines if lines is not None else []).append, refused_s=refused_s)


def run(test: Callable[[Registry], Coroutine[Any, Any, None]]) -> None:
    async def running() -> None:
        await test(Registry(V1))

    asyncio.run(running())


async def running_until(tables: ServedTables, found: list[Any], is_there: Callable[[], bool]) -> None:
    task = asyncio.create_task(tables.run(lambda adapters: found.append([*adapters])))
    try:
        async with asyncio.timeout(60):
            while not is_there():
                await asyncio.sleep(0.005)
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def test_a_table_is_asked_for_by_its_edition_and_told_when_it_changes(tmp_path: Path) -> None:
    async def test(registry: Registry) -> None:
        tables, found = tables_of(registry, tmp_path), list[Any]()
        await tables.start()
        assert tables.adapters == [V1]
        assert not await tables.look()
        registry.move(V2)
        await running_until(tables, found, lambda: bool(found))
        assert found == [[V2]]
        assert registry.known[:2] == [None, "1"]

    run(test)


def test_a_feed_brings_the_next_look_forward(tmp_path: Path) -> None:
    async def test(registry: Registry) -> None:
        registry.look_s, registry.has_feed = 3600.0, True
        tables, found = tables_of(registry, tmp_path), list[Any]()
        await tables.start()
        asyncio.get_running_loop().call_later(0.1, registry.move, V2)
        await running_until(tables, found, lambda: bool(found))
        assert found == [[V2]]
        assert len(registry.known) < 6

    run(test)


@pytest.mark.parametrize("says_look", [True, False])
def test_a_feed_that_answers_at_once_is_not_asked_in_a_loop(tmp_path: Path, says_look: bool) -> None:
    async def test(registry: Registry) -> None:
        asked: list[str] = []

        async def changed(_namespace: str, after: str) -> bool:
            asked.append(after)
            await asyncio.sleep(0)
            return says_look

        registry.look_s, registry.has_feed, registry.changed = 3600.0, True, changed  # type: ignore[method-assign]
        tables = tables_of(registry, tmp_path)
        await tables.start()
        began = time.monotonic()
        await running_until(tables, [], lambda: len(asked) >= 4 or time.monotonic() - began > 30)
        assert time.monotonic() - began > 0.6

    run(test)


@pytest.mark.parametrize("error", [NotFound("there is none"), Unauthenticated("revoked"), NotAllowed("no role")])
def test_lost_rights_leave_nothing_to_serve_also_after_a_restart(tmp_path: Path, error: AdapterctlError) -> None:
    async def test(registry: Registry) -> None:
        tables = tables_of(registry, tmp_path)
        await tables.start()
        registry.error = error
        assert await tables.look()
        assert tables.adapters == []
        registry.error = Unavailable("away")
        again = tables_of(registry, tmp_path)
        await again.start()
        assert again.adapters == []

    run(test)


@pytest.mark.parametrize("error", [Unavailable("away"), TimedOut("late")])
def test_a_registry_that_is_away_changes_nothing_and_it_is_known_since_when(
    tmp_path: Path, error: AdapterctlError
) -> None:
    async def test(registry: Registry) -> None:
        lines: list[str] = []
        tables = tables_of(registry, tmp_path, lines)
        await tables.start()
        looked_at = tables.age.looked_at
        assert tables.age.away_since is None
        registry.error = error
        assert not await tables.look()
        assert not await tables.look()
        assert tables.adapters == [V1]
        assert tables.age.away_since == looked_at
        assert len(lines) == 1
        registry.error = None
        await tables.look()
        assert tables.age.away_since is None

    run(test)


REFUSALS = [
    Conflict("too many names"),
    RateLimited("too many requests"),
    Incompatible("another release"),
    AdapterctlError("broken"),
]


@pytest.mark.parametrize("error", REFUSALS)
def test_a_refusal_is_not_a_registry_that_is_away_and_ends_what_it_does_not_confirm(
    tmp_path: Path, error: AdapterctlError
) -> None:
    async def test(registry: Registry) -> None:
        lines: list[str] = []
        tables = tables_of(registry, tmp_path, lines, refused_s=0.2)
        await tables.start()
        registry.error = error
        assert not await tables.look()
        age = tables.age
        assert (age.away_since, age.refusal) == (None, error.code.value)
        assert age.refused_since is not None
        assert tables.adapters == [V1]
        assert len(lines) == 1
        assert str(error) in lines[0]
        await asyncio.sleep(0.25)
        # The end comes also if the registry goes away meanwhile.
        registry.error = Unavailable("away")
        assert await tables.look()
        assert tables.adapters == []
        again = tables_of(registry, tmp_path)
        await again.start()
        assert again.adapters == []
        registry.error = None
        assert await tables.look()
        assert tables.adapters == [V1]
        assert (tables.age.refusal, tables.age.refused_since) == (None, None)

    run(test)


def test_a_refusal_that_ends_in_time_ends_nothing(tmp_path: Path) -> None:
    async def test(registry: Registry) -> None:
        tables = tables_of(registry, tmp_path, refused_s=0.2)
        await tables.start()
        registry.error = REFUSALS[0]
        await tables.look()
        registry.error = None
        assert not await tables.look()
        await asyncio.sleep(0.25)
        registry.error = REFUSALS[0]
        assert not await tables.look()
        assert tables.adapters == [V1]

    run(test)


@pytest.mark.parametrize("error", REFUSALS)
def test_a_start_that_is_refused_uses_no_file(tmp_path: Path, error: AdapterctlError) -> None:
    async def test(registry: Registry) -> None:
        await tables_of(registry, tmp_path).start()
        registry.error = error
        with pytest.raises(type(error)):
            await tables_of(registry, tmp_path).start()

    run(test)


def test_a_restart_without_the_registry_uses_the_last_table_and_its_age(tmp_path: Path) -> None:
    async def test(registry: Registry) -> None:
        await tables_of(registry, tmp_path).start()
        (file,) = tmp_path.iterdir()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        began = time.time()
        registry.error = Unavailable("away")
        tables = tables_of(registry, tmp_path)
        await tables.start()
        assert tables.adapters == [V1]
        assert tables.age.looked_at == tables.age.away_since == file.stat().st_mtime <= began

    run(test)


@pytest.mark.parametrize("content", [None, b"", b"[" * 100_000, b'{"namespace": "-"}', b"\xff"])
def test_a_first_start_needs_the_registry_whatever_the_file_has(tmp_path: Path, content: bytes | None) -> None:
    async def test(registry: Registry) -> None:
        if content is not None:
            TableFile.of(tmp_path, "https://registry.example.com", "-", ["sql"]).path.write_bytes(content)
        registry.error = Unavailable("away")
        with pytest.raises(Unavailable):
            await tables_of(registry, tmp_path).start()

    run(test)


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write_is_not_believed(tmp_path: Path, mode: int) -> None:
    file = TableFile.of(tmp_path, "https://registry.example.com", "-", ["sql"])
    file.write(ServingTable(namespace="-", edition="1", left_out=False, adapters=[V1]))
    assert file.read() is not None
    file.path.chmod(mode)
    assert file.read() is None


def test_a_file_of_another_owner_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = TableFile.of(tmp_path, "https://registry.example.com", "-", ["sql"])
    file.write(ServingTable(namespace="-", edition="1", left_out=False, adapters=[V1]))
    owner = file.path.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    assert file.read() is None


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    file = TableFile.of(tmp_path, "https://registry.example.com", "-", ["sql"])
    os.mkfifo(file.path, 0o600)
    assert file.read() is None


def test_a_table_of_the_future_is_one_of_now(tmp_path: Path) -> None:
    file = TableFile.of(tmp_path, "https://registry.example.com", "-", ["sql"])
    file.write(ServingTable(namespace="-", edition="1", left_out=False, adapters=[V1]))
    os.utime(file.path, (2.0**40, 2.0**40))
    found = file.read()
    assert found is not None
    assert found.looked_at <= time.time()


def test_a_file_is_that_of_its_registry_and_namespace(tmp_path: Path) -> None:
    meant = [
        (url, space, names) for url in ("https://a", "https://b") for space in "-x" for names in (["a"], ["a", "b"])
    ]
    assert len({TableFile.of(tmp_path, *each).path for each in meant}) == 8
