"""What makes a version one of its own: its manifest in its adapter, over its base; and what is said of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import calls
from support.adapters import base_registration, save_adapter
from support.people import SEEDS
from support.registries import World

from registry.catalog.models import Adapter, Version
from registry.catalog.versions.lifecycle import VersionState
from registry.catalog.versions.present import refresh_document
from registry.principal import Role
from sdk.client import Client
from sdk.errors import Conflict, InvalidInput, NotAllowed, NotFound
from sdk.schemas.catalog import Publication, Published
from sdk.schemas.lora_config import QuantizationRecipe


@pytest.fixture(scope="module")
def world(world: World) -> World:
    world.admin.bases.register(base_registration("other"))
    return world


def stored(client: Client, folder: Path, name: str) -> Publication:
    """What is said of an adapter whose files are all stored: no upload is named."""
    package = calls.packed(folder, base_revision=base_registration().revision)
    return Publication(adapter=name, manifest=package.manifest, lora=package.lora)


def test_the_same_files_over_another_base_are_another_version(world: World, name: str, adapter: Path) -> None:
    # The config says which base it is of, so that the very same files can go over both.
    config = adapter / "adapter_config.json"
    config.write_text(config.read_text().replace('"tiny"', '"org/base"').replace("{", '{"revision": "main", ', 1))
    first = world.writer.push(adapter, name, base="tiny")
    second = world.writer.push(adapter, name, base="other")
    assert (first.number, second.number) == (1, 2)
    assert first.info.files == second.info.files
    assert first.digest != second.digest
    assert [found.info.base.id for found in (first, second)] == ["tiny", "other"]
    assert world.writer.push(adapter, name, base="tiny").number == 1


def test_what_nobody_says_is_unknown(world: World, name: str, tmp_path: Path) -> None:
    def push(n: int, **said: object) -> tuple[str, list[str]]:
        folder = save_adapter(tmp_path / str(n), next(SEEDS))
        info = world.writer.push(folder, name, base="tiny", **said).info  # type: ignore[arg-type]
        return info.method, info.unknown

    rest = ["dataset", "training", "libraries"]
    assert push(1) == ("unknown", ["quantization", *rest])
    assert push(2, method="lora") == ("lora", rest)
    assert push(3, quantization=QuantizationRecipe()) == ("qlora", rest)
    assert push(4, method="qlora") == ("qlora", ["quantization", *rest])
    with pytest.raises(InvalidInput, match="unquantised base"):
        push(5, method="lora", quantization=QuantizationRecipe())


def test_stored_files_become_a_version_elsewhere_without_being_sent(world: World, name: str, adapter: Path) -> None:
    body = stored(world.writer, adapter, f"{name}-copy")
    with pytest.raises(InvalidInput, match="neither announced"):
        world.writer.call("POST", "/versions", Published, body=body)
    pushed = world.writer.push(adapter, name, base="tiny")
    copied = world.writer.call("POST", "/versions", Published, body=body)
    assert (copied.version.ref, copied.version.digest) == (f"{name}-copy@v1", pushed.digest)


def test_files_that_one_may_not_read_are_not_adopted_by_their_digest(http_postgres: World, adapter: Path) -> None:
    world = http_postgres
    world.admin.bases.register(base_registration())
    world.writer.push(adapter, "secret/adapter", base="tiny")
    stranger = world.client(Role.WRITER, namespace="team")
    body = stored(stranger, adapter, "team/adapter")
    with pytest.raises(InvalidInput, match="neither announced"):
        stranger.call("POST", "/versions", Published, body=body)
    with pytest.raises(NotFound):
        stranger.get("secret/adapter")
    stranger.close()


def test_a_quarantined_version_gets_its_number_when_an_admin_releases_it(
    world: World, name: str, tmp_path: Path
) -> None:
    client = world.writer
    held = client.push(save_adapter(tmp_path / "held", next(SEEDS)), name, base="tiny")
    with world.services.db.write() as session:
        row = session.query(Version).filter_by(digest=held.digest).one()
        row.state, row.number = VersionState.QUARANTINED, None
        adapter = session.get_one(Adapter, row.adapter_pk)
        adapter.last_number, adapter.latest_number, adapter.ready_versions, adapter.size_bytes = 0, None, 0, 0
        refresh_document(session, row)
    assert client.push(save_adapter(tmp_path / "next", next(SEEDS)), name, base="tiny").number == 1
    ref = f"{name}@sha256:{held.digest[:16]}"
    for refused in (client.versions.archive, client.versions.restore):
        with pytest.raises(Conflict):
            refused(ref)
    if world.has_roles:
        with pytest.raises(NotAllowed):
            client.versions.release(ref)
    admin = world.client(Role.ADMIN)
    assert admin.versions.release(ref, reason="looked at").ref == f"{name}@v2"
    assert client.get(name).number == 2
    with pytest.raises(Conflict, match="not quarantined"):
        admin.versions.release(f"{name}@v2")
    if world.has_roles:
        admin.close()


def test_what_is_written_later_is_there_at_once_and_notes_only_grow(world: World, name: str, adapter: Path) -> None:
    client = world.writer
    client.push(adapter, name, base="tiny", description="first", tags={"a": "1", "b": "2"})
    info = client.versions.annotate(f"{name}@v1", description="second", tags={"c": "3"}, untag=["a"], note="one").info
    assert (info.description, info.tags) == ("second", {"b": "2", "c": "3"})
    assert client.versions.annotate(name, note="two").info.description == "second"
    assert [note.text for note in client.get(name).info.notes] == ["one", "two"]
    assert {note.written_by for note in client.get(name).info.notes} == {"some writer" if world.has_roles else "local"}
    with pytest.raises(InvalidInput, match="at most 64 tags"):
        client.versions.annotate(name, tags={f"t{n}": "x" for n in range(63)})
    for tags in ({"Upper": "x"}, {"": "x"}, {"a b": "x"}, {"a": "x" * 201}):
        with pytest.raises(InvalidInput):
            client.versions.annotate(name, tags=tags)
