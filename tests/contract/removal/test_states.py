"""Versions that are archived, restored, deleted and retained, and who may do it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from contract.removal.helpers import (
    WITHOUT_GRACE,
    age,
    file_of,
    is_stored,
    nothing,
    publication,
    publish,
    same,
)
from sqlalchemy import select
from support.adapters import save_adapter
from support.people import SEEDS
from support.registries import World

from registry.access.models import AuditEntry
from registry.catalog.models import Version as VersionRow
from registry.principal import SYSTEM
from sdk.client import Client
from sdk.errors import Conflict, InvalidInput, NotFound
from sdk.objects import Version
from sdk.schemas.catalog import Publication


class TestMoves:
    def test_an_archived_version_is_hidden_and_still_found(
        self, world: World, admin: Client, push: Callable[..., Version], tmp_path: Path
    ) -> None:
        push()
        second, writer = push(), world.writer
        assert writer.versions.archive("a@v2", reason="worse than v1").info.state == "archived"
        assert [version.ref for version in writer.versions("a")] == ["a@v1"]
        assert {version.ref for version in writer.versions("a", archived=True)} == {"a@v1", "a@v2"}
        assert writer.get("a").ref == "a@v1"
        assert writer.get("a@v2").digest == second.digest
        assert writer.get(f"a@sha256:{second.digest[:16]}").ref == "a@v2"
        assert writer.pull("a@v2", tmp_path / "pulled").is_dir()
        # Again is fine, and there is nothing to collect of it.
        assert writer.versions.archive("a@v2").info.state == "archived"
        assert nothing(admin.retention.gc(dry_run=False, grace_hours=0))
        assert is_stored(world, file_of(second))
        assert writer.versions.restore("a@v2").info.state == "ready"
        assert writer.get("a").ref == "a@v2"
        assert writer.versions.restore("a@v2").info.state == "ready"

    @pytest.mark.parametrize("verb", ["archive", "delete"])
    def test_an_aliased_version_is_refused_with_the_names(
        self, admin: Client, push: Callable[..., Version], verb: str
    ) -> None:
        push()
        for alias in ("staging", "production"):
            admin.set_alias("a", alias, 1)
        with pytest.raises(Conflict, match=r"production, staging.*adapterctl alias"):
            getattr(admin.versions, verb)("a@v1")
        assert admin.get("a@v1").info.state == "ready"
        for alias in ("staging", "production"):
            admin.aliases.remove("a", alias)
        assert getattr(admin.versions, verb)("a@v1").ref == "a@v1"

    def test_a_deleted_version_leaves_its_number(
        self, admin: Client, push: Callable[..., Version], tmp_path: Path
    ) -> None:
        seed = next(SEEDS)
        push()
        push(seed=seed)
        assert admin.versions.delete("a@v2", reason="trained on the test set").info.state == "deleted"
        for look in (admin.get, admin.pull, admin.versions.archive, admin.versions.restore, admin.versions.delete):
            with pytest.raises(NotFound, match=r"a@v2 was deleted.*adapterctl versions a"):
                look("a@v2")
        assert admin.get("a").ref == "a@v1"
        assert [version.ref for version in admin.versions("a", archived=True)] == ["a@v1"]
        again = push(seed=seed)
        assert again.ref == "a@v3"
        assert admin.pull("a@v3", tmp_path / "pulled").is_dir()


class TestRetention:
    def test_a_rule_is_set_read_and_cleared(self, admin: Client, push: Callable[..., Version]) -> None:
        push()
        assert admin.retention("a").rule is None
        for given in ({"keep_last": 3}, {"keep_days": 90}, {"keep_last": 3, "keep_days": 90}):
            assert admin.retention.set("a", **given) == admin.retention("a")
            rule = admin.retention("a").rule
            assert rule.model_dump(exclude_none=True) == given
        admin.retention.clear("a")
        assert admin.retention("a").rule is None
        admin.retention.clear("a")
        trail = [(entry.action, entry.subject) for entry in admin.audit(action="retention.*")]
        assert trail == [("retention.clear", "a"), *[("retention.set", "a")] * 3]
        for bad in ({}, {"keep_last": 0}, {"keep_days": 0}):
            with pytest.raises(InvalidInput):
                admin.retention.set("a", **bad)
        with pytest.raises(NotFound):
            admin.retention.set("nothing", keep_last=1)

    def test_the_newest_ready_ones_are_kept_and_what_aliases_name(
        self, admin: Client, push: Callable[..., Version]
    ) -> None:
        for _ in range(6):
            push()
        push("other")
        admin.set_alias("a", "production", 1)
        admin.versions.archive("a@v5")
        admin.versions.archive("a@v2")
        admin.retention.set("a", keep_last=2)
        planned = admin.retention.gc(dry_run=True)
        # v5 is archived, so v4 and v6 are the newest two; archived ones are among no newest.
        assert planned.retired_versions == ["a@v2", "a@v3", "a@v5"]
        assert {version.ref for version in admin.versions("a", archived=True)} == {f"a@v{n}" for n in range(1, 7)}
        same(planned, admin.retention.gc(dry_run=False))
        assert {version.ref for version in admin.versions("a", archived=True)} == {"a@v1", "a@v4", "a@v6"}
        entry = admin.audit(action="version.delete")[0]
        assert entry.after == {"state": "deleted", "reason": "retention: keeps the newest 2"}
        assert nothing(admin.retention.gc(dry_run=False))
        assert [version.ref for version in admin.versions("other")] == ["other@v1"]

    def test_young_ones_are_kept(self, world: World, admin: Client, push: Callable[..., Version]) -> None:
        for _ in range(4):
            push()
        admin.versions.archive("a@v1")
        admin.versions.archive("a@v4")
        age(world, VersionRow, 24 * 10 + 1, VersionRow.number <= 2)
        admin.retention.set("a", keep_days=11)
        assert admin.retention.gc(dry_run=True).retired_versions == []
        admin.retention.set("a", keep_days=10)
        assert admin.retention.gc(dry_run=True).retired_versions == ["a@v1", "a@v2"]
        # Either part of a rule is enough.
        admin.retention.set("a", keep_days=10, keep_last=2)
        assert admin.retention.gc(dry_run=False).retired_versions == ["a@v1"]

    def test_a_parent_of_a_kept_version_is_not_kept_and_stays_in_the_lineage(
        self, world: World, admin: Client, push: Callable[..., Version], tmp_path: Path
    ) -> None:
        push()
        body = publication(world.writer, save_adapter(tmp_path / "child", next(SEEDS)), "a")
        parent = {"ref": "a@v1", "relation": "continued-from", "weight": None}
        publish(world.writer, Publication.model_validate(body.model_dump() | {"parents": [parent]}))
        admin.retention.set("a", keep_last=1)
        assert admin.retention.gc(dry_run=False, grace_hours=0).retired_versions == ["a@v1"]
        assert [found.ref for found in admin.get("a@v2").info.parents] == ["a@v1"]


def test_a_collection_says_who_made_it(embedded: World) -> None:
    embedded.services.removal.collect(request=WITHOUT_GRACE, who=SYSTEM)
    with embedded.services.db.read() as session:
        entry = session.scalars(select(AuditEntry)).one()
    assert (entry.actor, entry.action) == ("registry", "gc.run")
