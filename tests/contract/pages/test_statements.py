"""A page asks the database as often for many versions and adapters as for a few."""

from __future__ import annotations

from typing import Any

from contract.pages.conftest import ONE_DATABASE, Opening
from contract.promotion.scene import Scene
from sqlalchemy import insert, inspect, select, update
from support.adapters import digest
from support.statements import sent

from registry.artifacts.models import ManifestRow
from registry.catalog.models import Adapter, Origin, Version
from registry.db.types import Model
from registry.principal import LOCAL

#: What a page asks.
ASKED = {"/ui/adapters": 6, "/ui/adapters?filter=rank >= 1": 8, "adapter": 18, "version": 25, "history": 2}


def columns_of(row: Model, **changed: Any) -> dict[str, Any]:
    """A row as another one is inserted."""
    there = inspect(row)
    return {name: getattr(row, name) for name in {*there.mapper.columns.keys()} - there.unloaded} | changed


def multiply(scene: Scene, adapters: int, versions: int) -> None:
    """Let the last version of the scene's adapter be there under further numbers, and under further names."""
    with scene.services.db.write() as session:
        adapter = session.scalars(select(Adapter).where(Adapter.name == scene.adapter())).one()
        newest = select(Version).where(Version.adapter_pk == adapter.pk).order_by(Version.number.desc())
        version = session.scalars(newest.limit(1)).one()
        manifest, origin = session.get_one(ManifestRow, version.digest), session.scalars(select(Origin)).first()
        assert version.number is not None
        assert origin is not None
        for name in range(adapters):
            given = {"pk": None, "name": f"{scene.space}/more-{name:02}"}
            copy = {key: value for key, value in columns_of(adapter, **given).items() if key != "pk"}
            session.execute(insert(Adapter).values(copy))
        for number in range(version.number + 1, version.number + 1 + versions):
            own = digest(f"{scene.space} {number}")
            session.execute(insert(ManifestRow).values(columns_of(manifest, digest=own)))
            copy = columns_of(version, number=number, digest=own, manifest_digest=own)
            del copy["pk"]
            pk = session.execute(insert(Version).values(copy).returning(Version.pk)).scalar_one()
            copy = columns_of(origin, version_pk=pk)
            del copy["pk"]
            session.execute(insert(Origin).values(copy))
        last = {"latest_number": version.number + versions, "last_number": version.number + versions}
        session.execute(update(Adapter).where(Adapter.pk == adapter.pk).values(last))


@ONE_DATABASE
def test_pages_of_many_ask_as_often_as_pages_of_few(scene: Scene, opening: Opening) -> None:
    for _ in range(3):
        scene.publish()
    data = scene.rows()
    scene.score(1, data, 0.5)
    scene.move(1)
    scene.move(2)
    reader = opening("ann")
    addresses = {
        "adapter": f"/ui/adapters/{scene.adapter()}",
        "version": f"/ui/adapters/{scene.adapter()}/v1",
        "history": f"/ui/history?adapter={scene.adapter()}",
    }

    def count() -> dict[str, int]:
        found = {}
        for name in ASKED:
            reader.get("/ui/adapters")
            # What is read from files is remembered.
            reader.get(addresses.get(name, name))
            with sent(scene.services.db) as statements:
                page = reader.get(addresses.get(name, name))
            assert page.status_code == 200
            # Not those of the session, which is looked up again after half a second.
            found[name] = sum("web_sessions" not in one.sql and "tokens" not in one.sql for one in statements)
        return found

    few = count()
    multiply(scene, 30, 57)
    assert count() == few
    assert few == ASKED


@ONE_DATABASE
def test_list_of_aliases_asks_for_nothing_that_it_does_not_show(scene: Scene) -> None:
    for number in range(1, 4):
        scene.publish()
        scene.move(number, alias=f"canary-{number}")
    with sent(scene.services.db) as statements:
        found = scene.services.aliases.list(adapter=scene.adapter(), who=LOCAL)
    assert [one.ref for one in found] == [f"{scene.adapter()}@v{number}" for number in range(1, 4)]
    assert len(statements) <= 4
    assert not [one.sql for one in statements if "versions.lora" in one.sql]
