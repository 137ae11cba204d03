"""Many at once on one adapter: publishers of whom every third is stopped half-way, movers of aliases, whole programs."""

from __future__ import annotations

import itertools
import json
import os
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import urlsplit

import pytest
from sqlalchemy import select
from support import embedded_users, processes
from support.adapters import save_adapter
from support.model import Model, ModelAdapter
from support.payloads import Payload, make_payload
from support.people import SEEDS
from support.processes import environment
from support.registries import World
from support.soak import scale

from registry.access.audit.service import AuditQuery
from registry.artifacts.service import Artifacts
from registry.catalog.models import Adapter, Version
from registry.catalog.publishing.publisher import Publisher
from registry.catalog.versions.lifecycle import VersionState
from registry.principal import LOCAL, SYSTEM, Role
from sdk.client import Client
from sdk.errors import Conflict, NotFound, VerificationFailed
from sdk.schemas.artifacts import UploadRequest, UploadView
from sdk.schemas.catalog import Published, VersionMove
from sdk.whole_files import whole_file

pytestmark = pytest.mark.soak

NAMES = (f"team/shared-{n}" for n in itertools.count(1))

PUBLISHERS = 64
#: How every third publisher ends.
ENDS = ("refused", "nothing arrives", "dies", "hangs up")
PROGRAMS = 16
#: What each mover of an alias tries.
MOVES = 8


@pytest.fixture(scope="module")
def world(people: World) -> World:
    return people


@pytest.fixture
def name() -> str:
    """The name of an adapter that no other test has."""
    return next(NAMES)


class Interrupted(Artifacts):
    """The artifacts of a publisher to whom something happens once its bytes are verified."""

    def __init__(self, world: World, happens: Callable[[], object]) -> None:
        super().__init__(world.services.db, world.services.artifacts.storage, world.services.uploads)
        self._happens = happens

    def known(self, *given: Any, **named: Any) -> None:
        """Nothing: every byte is to be read."""

    def verify(self, **given: Any) -> Any:
        """Verify, and let it happen."""
        found = super().verify(**given)
        self._happens()
        return found


class Died(BaseException):
    """The end of a process, as one of its threads can have it: nothing handles it."""


def payload() -> Payload:
    return make_payload(next(SEEDS))


def send(client: Client, given: Payload, folder: Path) -> str:
    """Upload over HTTP; return the session."""
    sources = {sha256: folder / sha256 for sha256 in given.files}
    for sha256, path in sources.items():
        # Another thread may be sending the same file.
        if not path.exists():
            with whole_file(path, durable=True) as file:
                file.write(given.files[sha256])
    return client.uploader.upload(sources, "sending")


def publish(client: Client, given: Payload, adapter: str, folder: Path) -> Published:
    body = given.publication(adapter, send(client, given, folder))
    return client.call("POST", "/versions", Published, body=body)


def rows_of(world: World, name: str) -> list[tuple[int | None, str, str]]:
    """Number, digest and state of each of an adapter's versions, in the order of their numbers."""
    query = select(Version.number, Version.digest, Version.state).join(Adapter).where(Adapter.name == name)
    with world.services.db.read() as session:
        return sorted((tuple(row) for row in session.execute(query)), key=lambda row: row[0] or 0)


def require_whole(world: World, name: str, payloads: Mapping[str, Payload]) -> ModelAdapter:
    """Hold an adapter against its own audit trail: each change was allowed, and all of them make what there is."""
    model = Model([name])
    (adapter,) = model.adapters
    entries = world.services.audit.list(AuditQuery(subject=name, limit=1000), who=SYSTEM).items
    model.follow(reversed(entries), payloads)
    numbered = [row for row in rows_of(world, name) if row[0] is not None]
    assert numbered == [(held.number, held.payload.digest, held.state) for held in adapter.versions]
    assert [row[0] for row in numbered] == list(range(1, len(numbered) + 1))
    with world.services.db.read() as session:
        row = session.scalars(select(Adapter).where(Adapter.name == name)).one()
    assert (row.last_number, row.latest_number, row.ready_versions, row.size_bytes) == (
        len(adapter.versions),
        adapter.latest,
        len(adapter.ready()),
        adapter.size_bytes,
    )
    views = world.writer.versions(name, archived=True)
    assert [view.number for view in views] == [held.number for held in reversed(adapter.pullable())]
    for view in views:
        # The stored text of a version says what its rows say.
        assert world.writer.get(view.ref).info == view.info
    assert {alias.alias: alias.number for alias in world.writer.aliases(name)} == adapter.aliases
    moves = [(move.alias, move.kind, move.from_number, move.to_number) for move in world.writer.aliases.history(name)]
    assert moves[::-1] == [(move.alias, move.kind, move.from_number, move.to_number) for move in adapter.moves]
    return adapter


# Publishers.


def end(how: str, world: World, name: str, given: Payload, folder: Path) -> None:
    """Publish, and be stopped half-way."""
    client = world.writer
    if how == "refused":
        with pytest.raises(VerificationFailed, match="zero"):
            publish(client, given, name, folder)
    elif how == "nothing arrives":
        session = client.call("POST", "/uploads", UploadView, body=UploadRequest(blobs=given.blobs))
        with pytest.raises(VerificationFailed, match="never arrived"):
            client.call("POST", "/versions", Published, body=given.publication(name, session.id))
    elif how == "dies":
        who = world.principal(Role.WRITER)
        body = given.publication(name, send(client, given, folder))
        publisher = Publisher(world.services.db, Interrupted(world, _die))
        with pytest.raises(Died):
            publisher.publish(publication=body, who=who)
    else:
        _hang_up(world, given.publication(name, send(client, given, folder)).model_dump_json().encode())


def _die() -> None:
    raise Died


def _hang_up(world: World, body: bytes) -> None:
    """Send a whole request, and be gone before it is answered."""
    address = urlsplit(world.url)
    token = world.token(Role.WRITER)
    head = (
        f"POST /api/v1/versions HTTP/1.1\r\nHost: {address.netloc}\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection((address.hostname, address.port)) as connection:
        # Closing resets the connection, without the usual farewell.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.sendall(head.encode() + body)
        time.sleep(0.02)


def settled(world: World, name: str) -> None:
    """Wait until the server has done what was asked by those who are gone."""
    before, now = None, rows_of(world, name)
    while before != now:
        time.sleep(0.5)
        before, now = now, rows_of(world, name)


def test_publishers_of_whom_every_third_is_stopped_get_one_to_n(world: World, tmp_path: Path) -> None:
    for _ in range(scale(20)):
        _publish_at_once(world, next(NAMES), tmp_path)


def _publish_at_once(world: World, name: str, folder: Path) -> None:
    ends = {n: ENDS[n // 3 % len(ENDS)] for n in range(2, PUBLISHERS, 3)}
    given = {n: make_payload(next(SEEDS), idle=ends.get(n) == "refused") for n in range(PUBLISHERS)}
    for n, how in ends.items():
        # Half of those who are stopped have the bytes of the one before them, who is not.
        if n % 2 and how in ("dies", "hangs up"):
            given[n] = given[n - 1]
    start = threading.Barrier(PUBLISHERS)

    def act(n: int) -> Published | None:
        start.wait()
        return (
            end(ends[n], world, name, given[n], folder) if n in ends else publish(world.writer, given[n], name, folder)
        )

    with ThreadPoolExecutor(PUBLISHERS) as pool:
        published = {
            n: made for n, made in zip(range(PUBLISHERS), pool.map(act, range(PUBLISHERS)), strict=True) if made
        }
    settled(world, name)
    adapter = require_whole(world, name, {each.digest: each for each in given.values()})
    numbers = {held.payload.digest: held.number for held in adapter.versions}
    assert len(numbers) == len(adapter.versions) == adapter.latest
    assert published.keys() == given.keys() - ends.keys()
    for n, made in published.items():
        assert made.version.number == numbers[given[n].digest]
    # A dead publisher's row waits for its bytes to come again; no other publisher leaves one.
    waiting = {digest for _, digest, state in rows_of(world, name) if state == VersionState.PENDING}
    alone = {given[n].digest for n, how in ends.items() if how == "dies" and given[n] is not given[n - 1]}
    assert waiting == alone
    (again, *_) = (each for each in given.values() if each.digest in alone)
    assert publish(world.writer, again, name, folder).version.number == len(adapter.versions) + 1


def test_publishers_of_the_same_bytes_make_one_version(world: World, tmp_path: Path) -> None:
    for _ in range(scale(60)):
        name, same = next(NAMES), payload()
        with ThreadPoolExecutor(16) as pool:
            made = list(
                pool.map(lambda _, name=name, same=same: publish(world.writer, same, name, tmp_path), range(16))
            )
        assert {published.version.ref for published in made} == {f"{name}@v1"}
        assert [published.existing for published in made].count(False) == 1
        assert rows_of(world, name) == [(1, same.digest, "ready")]
        require_whole(world, name, {same.digest: same})


@pytest.mark.parametrize(("to", "number", "existing"), [("archived", 1, True), ("deleted", 2, False)])
def test_a_version_that_moves_while_its_bytes_are_published_again(
    world: World, name: str, tmp_path: Path, to: str, number: int, existing: bool
) -> None:
    same = payload()
    publish(world.writer, same, name, tmp_path)
    move = partial(world.services.version_states.move, target=VersionState(to), who=LOCAL)
    body = VersionMove(ref=f"{name}@v1")
    publisher = Publisher(world.services.db, Interrupted(world, lambda: move(body)))
    again = same.publication(name, send(world.writer, same, tmp_path))
    published = publisher.publish(publication=again, who=world.principal(Role.WRITER))
    assert (published.version.number, published.existing) == (number, existing)
    adapter = require_whole(world, name, {same.digest: same})
    assert [held.state for held in adapter.versions] == (["archived"] if existing else ["deleted", "ready"])


# Aliases.


def test_no_alias_names_what_was_taken_away_while_it_moved(world: World, tmp_path: Path) -> None:
    for round_ in range(scale(40)):
        _move_at_once(world, next(NAMES), tmp_path, Random(round_))


def _move_at_once(world: World, name: str, folder: Path, random: Random) -> None:
    given = [payload() for _ in range(12)]
    for each in given[:6]:
        publish(world.writer, each, name, folder)
    done: Counter[str] = Counter()
    steps = [
        [(random.choice(("set", "set", "expect", "rollback", "rm")), random.randint(1, 8)) for _ in range(MOVES)]
        for _ in range(8)
    ]
    stop = threading.Event()

    def move(mine: list[tuple[str, int]]) -> None:
        for what, number in mine:
            moved = True
            try:
                if what == "set":
                    moved = world.writer.set_alias(name, "live", number).moved
                elif what == "expect":
                    moved = world.writer.set_alias(name, "live", number, expect=number - 1).moved
                elif what == "rollback":
                    world.writer.rollback(name, "live")
                else:
                    world.writer.aliases.remove(name, "live")
            except (Conflict, NotFound):
                continue
            # What stays where it is leaves no line.
            done[f"alias.{what if what in ('rollback', 'rm') else 'set'}"] += moved

    def take_away(admin: Client, verb: str, numbers: list[int]) -> None:
        for number in numbers:
            try:
                getattr(admin.versions, verb)(f"{name}@v{number}")
            except (Conflict, NotFound):
                continue

    def add() -> None:
        for each in given[6:]:
            publish(world.writer, each, name, folder)

    def look() -> None:
        while not stop.wait(0.01):
            try:
                found = world.writer.get(f"{name}@live").info
            except NotFound:
                continue
            assert found.state in ("ready", "archived")
            assert found.aliases == ["live"]

    with closing(world.client(Role.ADMIN)) as admin, ThreadPoolExecutor(16) as pool:
        # The first request opens the connections, which is for one thread to do.
        admin.aliases(name)
        looking = pool.submit(look)
        work = [pool.submit(move, mine) for mine in steps]
        for verb in ("archive", "restore", "delete"):
            work.append(pool.submit(take_away, admin, verb, random.choices(range(1, 9), k=10)))
        work.append(pool.submit(add))
        try:
            for each in work:
                each.result()
        finally:
            stop.set()
        looking.result()
    adapter = require_whole(world, name, {each.digest: each for each in given})
    kinds = Counter("alias.rm" if moved.kind == "remove" else f"alias.{moved.kind}" for moved in adapter.moves)
    assert kinds == done


# Programs.


def test_many_programs_make_and_use_one_registry_in_a_folder(tmp_path: Path) -> None:
    home, folder, name, rounds = tmp_path / "home", tmp_path / "users", "team/shared", scale(40)
    for seed in range(PROGRAMS * rounds):
        save_adapter(folder / f"user-{seed % PROGRAMS}" / f"adapter-{seed}", seed)
    command = [sys.executable, embedded_users.__file__, str(home), name, str(folder)]
    tests = Path(embedded_users.__file__).parents[1]
    env = environment(PYTHONPATH=os.pathsep.join([str(tests), str(tests.parent)]))
    ended = processes.finished(*command, env=env, timeout_s=550)
    # "database is locked" would stand there.
    assert (ended.returncode, ended.stderr) == (0, "")
    done = [json.loads(line) for line in ended.stdout.splitlines()]
    assert len(done) == PROGRAMS
    assert sum(each["won"] + each["lost"] for each in done) == PROGRAMS * rounds
    with closing(Client(f"local:{home}", cache=tmp_path / "cache")) as client:
        views = client.versions(name)
        assert [view.number for view in views] == list(range(PROGRAMS * rounds, 0, -1))
        assert len({view.digest for view in views}) == PROGRAMS * rounds
        assert all(len(view.info.notes) == 1 for view in views)
        moves = client.aliases.history(name)
        assert len(moves) == sum(each["won"] for each in done)
        # Each winner found what the one before it had left.
        assert [move.from_number for move in moves[:-1]] == [move.to_number for move in moves[1:]]
        assert client.get(f"{name}@live").number == moves[0].to_number


def test_an_alias_is_protected_while_others_let_go_of_it(world: World) -> None:
    def again_and_again(seed: int) -> None:
        random = Random(seed)
        for _ in range(scale(800)):
            if random.random() < 0.5:
                assert world.admin.aliases.protect("team/*", "gold").alias == "gold"
            else:
                with suppress(NotFound):
                    world.admin.aliases.unprotect("team/*", "gold")

    with ThreadPoolExecutor(6) as pool:
        for done in [pool.submit(again_and_again, seed) for seed in range(6)]:
            done.result()
