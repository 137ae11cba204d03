"""Bases, datasets and aliases: what is found by name."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from contract.registry.helpers import submission, submit
from sqlalchemy import select
from support.adapters import BASE_TENSORS, base_registration, digest, save_adapter
from support.calls import claim
from support.people import SEEDS
from support.registries import World
from support.statements import sent

from registry.catalog.bases.finding import KnownBases
from registry.catalog.models import Adapter, Alias, AliasMoveRow, Version
from registry.catalog.versions.finding import find_adapter
from registry.db.statements import connection_of
from registry.errors import RegistryError
from registry.principal import SYSTEM
from sdk.client import Client
from sdk.errors import (
    Conflict,
    InvalidBase,
    InvalidInput,
    NotFound,
)
from sdk.schemas.artifacts import DatasetView


class TestBasesAndData:
    def test_a_base_is_found_by_id_fingerprint_and_prefix(self, writer: Client) -> None:
        fingerprint = digest("tiny: base")
        for each in ("tiny", fingerprint, fingerprint[:12]):
            base = writer.bases.get(each)
            assert (base.fingerprint, base.config) == (fingerprint, {"model_type": "llama", "hidden_size": 6})
        assert "tiny" in {base.id for base in writer.bases()}
        with pytest.raises(NotFound, match="adapterctl base add"):
            writer.bases.get("nobody")

    def test_a_fingerprint_is_no_other_base_that_is_called_so(self, writer: Client) -> None:
        fingerprint = digest("tiny: base")
        for taken in (fingerprint, fingerprint[:12]):
            decoy = base_registration().model_copy(update={"id": taken, "fingerprint": digest("a decoy")})
            with pytest.raises(InvalidInput, match="would be read as a fingerprint"):
                writer.bases.register(decoy)
        assert writer.bases.get(fingerprint).id == "tiny"

    def test_one_fingerprint_is_one_base_with_one_set_of_weights(self, writer: Client) -> None:
        registration = base_registration("twice")
        first = writer.bases.register(registration)
        again = writer.bases.register(registration.model_copy(update={"location": "hf://tests/elsewhere@1"}))
        assert (again.created_at, again.location) == (first.created_at, "hf://tests/elsewhere@1")
        with pytest.raises(Conflict, match="other weights"):
            writer.bases.register(registration.model_copy(update={"weights_digest": digest("others")}))

    def test_of_the_bases_that_publications_named_last_nothing_is_read_again(self, world: World, name: str) -> None:
        bases = [world.admin.bases.register(base_registration(f"{name}-{number}")) for number in range(3)]
        known, read = KnownBases(keep=2), []
        for number in (0, 1, 0, 2, 0, 1):
            with world.services.db.read() as session:
                with sent(connection_of(session)) as seen:
                    base = known.find(session, bases[number].fingerprint, "team")
                # Whether it has changed since is one look.
                read.append(len(seen) > 1)
                assert (base.brief.id, base.tensors) == (f"{name}-{number}", BASE_TENSORS)
        assert read == [True, True, False, True, False, True]
        with world.services.db.read() as session, pytest.raises(RegistryError, match="adapterctl base add"):
            known.find(session, digest("nobody"), "team")

    def test_a_folder_that_no_worker_shares_is_refused_at_submit(
        self, world: World, quiet: World, writer: Client, rows: DatasetView, name: str
    ) -> None:
        folder = f"/srv/{name}"
        world.admin.bases.register(base_registration(name, location=f"file://{folder}/base"))
        body = submission(name, rows, base=name)
        if world.has_roles:
            with pytest.raises(InvalidBase, match="upload"):
                submit(writer, body)
        # A worker that announces a folder with the same beginning of its name does not share it.
        claim(world.worker, shared_paths=[folder[:-1]], kinds=["merge"])
        if world.has_roles:
            with pytest.raises(InvalidBase):
                submit(writer, body)
        claim(world.worker, shared_paths=[folder], kinds=["merge"])
        assert submit(writer, body).state == "queued"


class TestAliases:
    def test_an_alias_moves_by_compare_and_set(self, world: World, writer: Client, name: str, tmp_path: Path) -> None:
        for n in range(2):
            writer.push(save_adapter(tmp_path / str(n), next(SEEDS)), name, base="tiny")
        assert writer.set_alias(name, "production", 1, expect=0).number == 1
        with pytest.raises(Conflict, match="names v1, not v0"):
            writer.set_alias(name, "production", 2, expect=0)
        with pytest.raises(Conflict, match="names v1, not v2"):
            writer.set_alias(name, "production", 2, expect=2)
        assert writer.get(f"{name}@production").number == 1
        assert writer.set_alias(name, "production", 2, expect=1, reason="better").number == 2
        assert writer.set_alias(name, "production", 1).number == 1
        with pytest.raises(NotFound):
            writer.set_alias(name, "production", 3)
        assert [(alias.alias, alias.ref) for alias in writer.aliases(name)] == [("production", f"{name}@v1")]
        with world.services.db.read() as session:
            moves = session.scalars(select(AliasMoveRow).order_by(AliasMoveRow.pk.desc()).limit(3)).all()
        assert [(move.from_number, move.to_number, move.reason) for move in reversed(moves)] == [
            (None, 1, ""),
            (1, 2, "better"),
            (2, 1, ""),
        ]

    @pytest.mark.parametrize("alias", ["latest", "v3", "sha256-x", "Prod", "a b", ""])
    def test_names_with_a_meaning_are_no_aliases(self, world: World, name: str, alias: str) -> None:
        answer = world.http.put("/api/v1/aliases", json={"adapter": name, "alias": alias, "number": 1})
        assert (answer.status_code, answer.json()["error"]["param"]) == (422, "alias")

    def test_a_mover_that_comes_second_by_a_hair_has_lost(
        self, world: World, writer: Client, name: str, tmp_path: Path
    ) -> None:
        for n in range(2):
            writer.push(save_adapter(tmp_path / str(n), next(SEEDS)), name, base="tiny")
        with ThreadPoolExecutor(1) as pool:
            with world.services.db.write() as session:
                find_adapter(session, name, SYSTEM, lock=True)
                first = session.scalars(select(Version).join(Adapter).where(Adapter.name == name, Version.number == 1))
                version = first.one()
                session.add(Alias(adapter_pk=version.adapter_pk, name="live", version_pk=version.pk, moved_by="x"))
                session.flush()
                second = pool.submit(writer.set_alias, name, "live", 2, expect=0)
                # Long enough for it to have seen that there is no such alias, where it can look at all.
                time.sleep(0.3)
            with pytest.raises(Conflict, match="names v1"):
                second.result()
        assert writer.get(f"{name}@live").number == 1
