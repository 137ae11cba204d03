"""What namespaces pay for: room is reserved before a byte is sent, and limits hold for all kinds together."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import func, select
from support.calls import at_once
from support.people import SEEDS, new_adapter, package
from support.registries import World
from support.small import write_base
from support.statements import sent
from support.usage import begin, blob, by_kind, end_time_of

from registry.artifacts.models import Upload
from registry.principal import EVERYWHERE, SYSTEM, Role
from sdk.client import Client
from sdk.errors import NotAllowed, NotFound, QuotaExceeded
from sdk.pulling.transfer import hash_file
from sdk.schemas.catalog import Published
from sdk.schemas.removal import GcRequest


class TestReserved:
    def test_room_is_reserved_until_something_is_made_of_what_was_sent(
        self, admin: Client, space: str, tmp_path: Path
    ) -> None:
        folder, name = new_adapter(tmp_path), f"{space}/a"
        packed = package(folder, tmp_path, name)
        size = packed.manifest.size_bytes
        sources = {file.sha256: folder / file.path for file in packed.manifest.files}
        for file in packed.manifest.files:
            if hash_file(folder / file.path)[0] != file.sha256:
                # Packing wrote it anew.
                sources[file.sha256] = next(tmp_path.glob(f"staging-*/{file.path}"))
        upload = admin.uploader.upload(sources, "sending", space)
        assert by_kind(admin.quotas.get(space)) == {"reserved_bytes": size}
        body = packed.model_copy(update={"upload": upload})
        admin.call("POST", "/versions", Published, body=body)
        assert by_kind(admin.quotas.get(space)) == {"versions_bytes": size}
        # A second thing is made of the same session; what was reserved was given back with the first.
        admin.call("POST", "/versions", Published, body=body.model_copy(update={"adapter": f"{space}/b"}))
        assert by_kind(admin.quotas.get(space)) == {"versions_bytes": 2 * size}

    def test_too_much_is_refused_before_anybody_learns_where_to_send_it(
        self, people: World, admin: Client, acting: Callable[..., Client], space: str
    ) -> None:
        writer = acting(**{space: Role.WRITER})
        admin.quotas.set(space, max_bytes=1000)
        begin(writer, space, blob(400))
        with pytest.raises(QuotaExceeded) as caught:
            begin(writer, space, blob(300), blob(301))
        said = caught.value.message
        assert "has 400 of 1000 bytes (uploads under way 400) and may not have 601 more" in said
        assert said.endswith(f"adapterctl quota set {space}")
        begin(writer, space, blob(300), blob(300))
        with people.services.db.read() as session:
            kept = select(func.count()).select_from(Upload).where(Upload.namespace == space)
            assert session.scalar(kept) == 2

    def test_of_many_at_once_exactly_those_are_admitted_that_fit(
        self, admin: Client, acting: Callable[..., Client], space: str
    ) -> None:
        admin.quotas.set(space, max_bytes=2500)
        writers = [acting(**{space: Role.WRITER}) for _ in range(6)]
        sessions = [partial(begin, writer, space, blob(600), blob(200)) for writer in writers]
        assert sum(at_once(sessions, refused=QuotaExceeded)) == 3
        assert admin.quotas.get(space).reserved_bytes == 2400

    def test_what_is_admitted_is_published_though_others_share_some_of_its_bytes(
        self, admin: Client, acting: Callable[..., Client], space: str, tmp_path: Path
    ) -> None:
        """Two adapters have the same config: who was let in with the other's room taken is never refused at the end."""
        writers = [acting(**{space: Role.WRITER}) for _ in range(2)]
        first = writers[0].push(new_adapter(tmp_path), f"{space}/a", base="tiny")
        size = sum(file.size_bytes for file in first.info.files)
        admin.quotas.set(space, max_bytes=2 * size + size // 2)
        pushes = [
            partial(writer.push, new_adapter(tmp_path), f"{space}/{number}", base="tiny")
            for number, writer in enumerate(writers)
        ]
        assert at_once(pushes, refused=QuotaExceeded) == [False, True]
        assert by_kind(admin.quotas.get(space)) == {"versions_bytes": 2 * size}

    def test_one_that_was_left_gives_its_room_back_when_its_time_is_over(
        self, people: World, admin: Client, acting: Callable[..., Client], space: str
    ) -> None:
        writer = acting(**{space: Role.WRITER})
        admin.quotas.set(space, max_bytes=1000)
        left, too_large = begin(writer, space, blob(900)).id, blob(101)
        with pytest.raises(QuotaExceeded):
            begin(writer, space, too_large)
        end_time_of(people, left)
        assert admin.quotas.get(space).reserved_bytes == 900
        # Whoever needs the room finds it at once.
        found = begin(writer, space, too_large).id
        assert admin.quotas.get(space).reserved_bytes == 101
        # Else it comes back with the daily removal, or a collection.
        end_time_of(people, found)
        people.services.expiry.run()
        assert admin.quotas.get(space).reserved_bytes == 0
        end_time_of(people, begin(writer, space, blob(500)).id)
        people.services.removal.collect(request=GcRequest(dry_run=True), who=SYSTEM)
        assert admin.quotas.get(space).reserved_bytes == 500
        people.services.removal.collect(request=GcRequest(dry_run=False), who=SYSTEM)
        assert admin.quotas.get(space).reserved_bytes == 0

    def test_one_that_goes_on_is_reserved_once(
        self, people: World, admin: Client, acting: Callable[..., Client], space: str
    ) -> None:
        writer, other = (acting(**{space: Role.WRITER}) for _ in range(2))
        admin.quotas.set(space, max_bytes=1000)
        one, two, three = blob(300), blob(400), blob(100)
        first = begin(writer, space, one, two)
        for _ in range(3):
            again = begin(writer, space, one, two)
            assert admin.quotas.get(space).reserved_bytes == 700
        # Part of it, with more.
        begin(writer, space, two, three)
        assert admin.quotas.get(space).reserved_bytes == 800
        # Somebody else sends the same for themselves.
        with pytest.raises(QuotaExceeded):
            begin(other, space, one)
        end_time_of(people, first.id)
        people.services.expiry.run()
        assert admin.quotas.get(space).reserved_bytes == 800
        end_time_of(people, again.id)
        people.services.expiry.run()
        assert admin.quotas.get(space).reserved_bytes == 500

    def test_nobody_takes_room_where_they_may_not_send(
        self, admin: Client, acting: Callable[..., Client], space: str
    ) -> None:
        there, reader, worker = (acting(**{space: role}) for role in (Role.WRITER, Role.READER, Role.WORKER))
        stranger = acting(**{f"x-{space}": Role.ADMIN})
        mixed = acting(**{space: Role.READER, f"x-{space}": Role.WRITER})
        with pytest.raises(NotFound):
            begin(stranger, space, blob(1))
        for client in (reader, mixed):
            with pytest.raises(NotAllowed):
                begin(client, space, blob(1))
        for client in (there, stranger, worker):
            with pytest.raises(NotAllowed):
                begin(client, EVERYWHERE, blob(1))
        assert admin.quotas.get(space).size_bytes == 0
        begin(worker, space, blob(20))
        begin(there, space, blob(1))
        assert admin.quotas.get(space).reserved_bytes == 21

    def test_who_does_not_say_where_has_room_where_they_may_write(
        self, admin: Client, acting: Callable[..., Client], space: str
    ) -> None:
        begin(acting(**{space: Role.WRITER}), None, blob(7))
        begin(acting(**{f"a-{space}": Role.WORKER, f"b-{space}": Role.WRITER}), None, blob(8))
        begin(acting(**{f"c-{space}": Role.WORKER}), None, blob(9))
        reserved = [admin.quotas.get(f"{prefix}{space}").reserved_bytes for prefix in ("", "a-", "b-", "c-")]
        assert reserved == [7, 0, 8, 9]

    def test_what_is_published_for_all_has_no_limit(self, admin: Client, people: World, tmp_path: Path) -> None:
        admin.quotas.set(EVERYWHERE, max_bytes=1)
        try:
            before = admin.quotas.get(EVERYWHERE).bases_bytes or 0
            added = admin.bases.add(write_base(tmp_path / "base", value=next(SEEDS) / 1e6), upload=True)
            assert (added.namespace, added.uploaded) == (EVERYWHERE, True)
            assert (admin.quotas.get(EVERYWHERE).bases_bytes or 0) > before
            assert admin.quotas.get(EVERYWHERE).reserved_bytes == 0
        finally:
            admin.quotas.set(EVERYWHERE)


class TestKnownBytes:
    def test_what_need_not_be_sent_is_held_against_the_limit_when_it_is_named(
        self, admin: Client, acting: Callable[..., Client], space: str, tmp_path: Path
    ) -> None:
        writer = acting(**{space: Role.WRITER, f"x-{space}": Role.WRITER})
        folder = new_adapter(tmp_path)
        size = sum(file.size_bytes for file in writer.push(folder, f"x-{space}/a", base="tiny").info.files)
        admin.quotas.set(space, max_bytes=size - 1)
        with pytest.raises(QuotaExceeded, match=rf"has 0 of {size - 1} bytes and may not have {size} more"):
            writer.push(folder, f"{space}/a", base="tiny")
        admin.quotas.set(space, max_bytes=size)
        writer.push(folder, f"{space}/a", base="tiny")
        # Each of the two pays.
        assert [admin.quotas.get(where).versions_bytes for where in (space, f"x-{space}")] == [size, size]


class TestStatements:
    """What a publication over stored blobs costs, however much the namespace has, and with limits or without."""

    #: One more than where there were no limits before there were sums; then there were two to four more with limits. One looks for
    #: scores that the bytes have had: they are tries of their adapter.
    # One looks for the version whose past a copy has; on PostgreSQL two take turns with whoever records scores of the bytes.
    MOST = {"sqlite": 19, "postgresql": 22}  # noqa: RUF012 - nobody changes it

    def test_one_row_is_changed_as_the_last_thing(
        self, people: World, admin: Client, space: str, tmp_path: Path
    ) -> None:
        def publish(name: str) -> list[str]:
            folder = new_adapter(tmp_path)
            admin.push(folder, f"x-{space}/stored", base="tiny")
            body = package(folder, tmp_path, f"{space}/{name}").model_copy(update={"upload": None})
            with sent(people.services.db) as seen:
                people.services.publisher.publish(publication=body, who=SYSTEM)
            return [one.sql for one in seen]

        admin.quotas.set(space)
        publish("a")
        unlimited = publish("a")
        admin.quotas.set(space, max_adapters=9, max_bytes=10**9)
        limited = publish("a")
        assert limited == unlimited
        asked = [sql for sql in unlimited if "usage" in sql or "quotas" in sql]
        assert [sql.split()[0] for sql in asked] == ["SELECT", "INSERT"]
        assert unlimited[-2:] == asked
        assert len(unlimited) == self.MOST[people.services.db.engine.dialect.name]
