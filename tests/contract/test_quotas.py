"""How much a namespace may have: over SQLite and over PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import delete
from support import registries
from support.calls import at_once
from support.people import new_adapter, package, submit, training
from support.registries import World

from registry.principal import Role
from registry.usage.models import Quota
from sdk.client import Client
from sdk.errors import NotAllowed, NotFound, QuotaExceeded

#: The limits of a namespace for which nobody has set any: adapters, bytes, jobs, bytes of records.
LIMITS = ("max_adapters", "max_bytes", "max_jobs", "max_record_bytes")
DEFAULTS = (10_000, 10**12, 10_000, 2**30)


class TestQuotas:
    def test_what_is_used_and_what_may_be(self, admin: Client, space: str, tmp_path: Path) -> None:
        empty = admin.quotas.get(space)
        assert (*(getattr(empty, name) for name in LIMITS), empty.default) == (*DEFAULTS, True)
        assert (empty.adapters, empty.size_bytes, empty.jobs) == (0, 0, 0)
        size = sum(file.size_bytes for file in admin.push(new_adapter(tmp_path), f"{space}/a", base="tiny").info.files)
        now = admin.quotas.set(space, max_adapters=1, max_bytes=10 * size)
        assert (now.max_adapters, now.max_bytes, now.max_jobs) == (1, 10 * size, None)
        assert (now.adapters, now.size_bytes, now.jobs) == (1, size, 0)
        # What is left out is taken away, and the trail says so.
        assert admin.quotas.set(space, max_jobs=0).max_adapters is None
        (last, first) = admin.audit(action="quota.set", namespace=space)
        assert first.before == dict(zip(LIMITS, DEFAULTS, strict=True))
        assert first.after == last.before == dict(zip(LIMITS, (1, 10 * size, None, None), strict=True))
        assert last.after == dict(zip(LIMITS, (None, None, 0, None), strict=True))

    def test_adapters(self, admin: Client, space: str, tmp_path: Path) -> None:
        admin.quotas.set(space, max_adapters=1)
        admin.push(new_adapter(tmp_path), f"{space}/a", base="tiny")
        refused = new_adapter(tmp_path)
        with pytest.raises(QuotaExceeded, match=r"1 of 1 adapters.*adapterctl quota set") as caught:
            admin.push(refused, f"{space}/b", base="tiny")
        assert (caught.value.code, caught.value.exit_code) == ("quota_exceeded", 5)
        with pytest.raises(NotFound):
            admin.get(f"{space}/b")
        # Another version of an adapter that is there is no new adapter; another namespace has its own quota.
        assert admin.push(new_adapter(tmp_path), f"{space}/a", base="tiny").number == 2
        admin.push(new_adapter(tmp_path), f"x-{space}/b", base="tiny")
        # The refused one burned no number and nothing that would stand in its way later.
        admin.quotas.set(space, max_adapters=2)
        assert admin.push(refused, f"{space}/b", base="tiny").number == 1

    def test_bytes_come_back_when_a_version_is_deleted(self, admin: Client, space: str, tmp_path: Path) -> None:
        folder = new_adapter(tmp_path)
        first = admin.push(folder, f"{space}/a", base="tiny")
        size = admin.quotas.get(space).size_bytes
        admin.quotas.set(space, max_bytes=2 * size)
        admin.push(new_adapter(tmp_path), f"{space}/a", base="tiny")
        third = new_adapter(tmp_path)
        with pytest.raises(QuotaExceeded, match=rf"{2 * size} of {2 * size} bytes"):
            admin.push(third, f"{space}/b", base="tiny")
        # The same bytes again in the same adapter take no room.
        assert admin.push(folder, f"{space}/a", base="tiny").number == 1
        admin.versions.archive(first.ref)
        with pytest.raises(QuotaExceeded):
            admin.push(third, f"{space}/b", base="tiny")
        admin.versions.delete(first.ref)
        assert admin.push(third, f"{space}/b", base="tiny").number == 1
        assert admin.quotas.get(space).size_bytes == 2 * size

    def test_jobs_that_wait_or_run(self, admin: Client, space: str, rows: Path) -> None:
        data = admin.datasets.add(rows, namespace=space).digest
        admin.quotas.set(space, max_jobs=1)
        job = submit(admin, training(f"{space}/a", data))
        with pytest.raises(QuotaExceeded, match="1 of 1 unfinished jobs"):
            submit(admin, training(f"{space}/a", data))
        admin.jobs.cancel(job.id)
        again = submit(admin, training(f"{space}/a", data))
        admin.jobs.cancel(again.id)

    @pytest.mark.parametrize("what", ["adapters", "bytes", "jobs"])
    def test_of_two_that_race_for_the_last_place_one_wins(
        self, acting: Callable[..., Client], admin: Client, space: str, tmp_path: Path, rows: Path, what: str
    ) -> None:
        data = admin.datasets.add(rows, namespace=space).digest
        size = package(new_adapter(tmp_path), tmp_path, "a").manifest.size_bytes
        clients = [acting(**{space: Role.WRITER}) for _ in range(2)]
        for place in range(1, 4):
            limit = {"adapters": {"max_adapters": place}, "bytes": {"max_bytes": place * size + size // 2}}
            admin.quotas.set(space, **limit.get(what, {"max_jobs": place}))
            acts = [
                partial(submit, client, training(f"{space}/a", data))
                if what == "jobs"
                else partial(client.push, new_adapter(tmp_path), f"{space}/r{place}-{n}", base="tiny")
                for n, client in enumerate(clients)
            ]
            assert at_once(acts, refused=QuotaExceeded) == [False, True]
        used = admin.quotas.get(space)
        assert {"adapters": used.adapters, "bytes": used.size_bytes // size, "jobs": used.jobs}[what] == 3
        for job in [job.id for job in admin.jobs(state="queued")]:
            admin.jobs.cancel(job)

    def test_a_namespace_that_may_not_be_seen_has_no_quota_to_show(
        self, acting: Callable[..., Client], space: str
    ) -> None:
        client = acting(**{space: Role.ADMIN})
        assert client.quotas.get(space).namespace == space
        with pytest.raises(NotFound):
            client.quotas.get(f"x-{space}")
        with pytest.raises(NotFound):
            client.quotas.set(f"x-{space}", max_jobs=1)


@pytest.fixture
def for_all(admin: Client) -> Iterator[Client]:
    yield admin
    admin.quotas.set("*")


class TestForAll:
    def test_a_namespace_without_limits_has_those_of_all(
        self, for_all: Client, acting: Callable[..., Client], space: str, tmp_path: Path
    ) -> None:
        for_all.quotas.set("*", max_adapters=1)
        shown = for_all.quotas.get(space)
        assert (shown.max_adapters, shown.default) == (1, True)
        writer = acting(**{space: Role.WRITER})
        writer.push(new_adapter(tmp_path), f"{space}/a", base="tiny")
        with pytest.raises(QuotaExceeded, match="1 of 1 adapters"):
            writer.push(new_adapter(tmp_path), f"{space}/b", base="tiny")
        assert for_all.quotas.set(space, max_adapters=2).default is False
        writer.push(new_adapter(tmp_path), f"{space}/b", base="tiny")
        with pytest.raises(NotAllowed):
            writer.quotas.set("*", max_adapters=9)

    def test_of_two_at_once_one_fills_the_last_place(
        self, for_all: Client, acting: Callable[..., Client], space: str, tmp_path: Path
    ) -> None:
        for_all.quotas.set("*", max_adapters=1)
        pushes = [
            partial(acting(**{space: Role.WRITER}).push, new_adapter(tmp_path), f"{space}/{number}", base="tiny")
            for number in range(4)
        ]
        assert at_once(pushes, refused=QuotaExceeded) == [False, False, False, True]


class TestByDefault:
    @pytest.fixture
    def small(self, people: World, tmp_path: Path) -> Iterator[Client]:
        """Another server of the same registry, in which nobody has set limits for all, with default limits of its own."""
        with people.services.db.write() as session:
            session.execute(delete(Quota).where(Quota.namespace == "*"))
        settings = people.services.settings
        made = registries.served(
            tmp_path / "small",
            database_url=settings.database_url,
            storage_url=settings.storage_url,
            default_max_adapters=1,
            default_max_bytes=5000,
            default_max_jobs=None,
        )
        with made as found:
            client = found.client(Role.ADMIN)
            yield client
            client.close()

    def test_they_hold_where_nobody_has_set_any(self, small: Client, space: str, tmp_path: Path) -> None:
        shown = small.quotas.get(space)
        assert (shown.max_adapters, shown.max_bytes, shown.max_jobs, shown.default) == (1, 5000, None, True)
        size = sum(file.size_bytes for file in small.push(new_adapter(tmp_path), f"{space}/a", base="tiny").info.files)
        with pytest.raises(QuotaExceeded, match="1 of 1 adapters"):
            small.push(new_adapter(tmp_path), f"{space}/b", base="tiny")
        # What was sent for the second one, which may be tried again, has its room for a day.
        with pytest.raises(QuotaExceeded, match=rf"of 5000 bytes \(versions {size}, uploads under way {size}\)"):
            small.uploader.upload({"ab" * 32: large(tmp_path)}, "sending", space)
        # Limits of its own take the place of all three, and so do those that are set for all.
        small.quotas.set(space)
        small.push(new_adapter(tmp_path), f"{space}/b", base="tiny")
        assert small.quotas.get(space).default is False

    def test_limits_for_all_take_their_place(self, small: Client, space: str, tmp_path: Path) -> None:
        small.quotas.set("*", max_adapters=2)
        try:
            shown = small.quotas.get(space)
            assert (shown.max_adapters, shown.max_bytes, shown.default) == (2, None, True)
            for name in ("a", "b"):
                small.push(new_adapter(tmp_path), f"{space}/{name}", base="tiny")
            with pytest.raises(QuotaExceeded, match="2 of 2 adapters"):
                small.push(new_adapter(tmp_path), f"{space}/c", base="tiny")
        finally:
            small.quotas.set("*")

    def test_a_registry_in_a_folder_has_none(self, tmp_path: Path) -> None:
        with registries.embedded(tmp_path / "home") as world:
            shown = world.writer.quotas.get("team")
            assert (shown.max_adapters, shown.max_bytes, shown.max_jobs, shown.default) == (None, None, None, False)


def large(tmp_path: Path) -> Path:
    path = tmp_path / "large"
    path.write_bytes(b"\0" * 5000)
    return path
