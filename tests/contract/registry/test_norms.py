"""The norms of ΔW that a registry derives: from the bytes, whatever the publisher says, and none of what it never read so."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from contract.registry.helpers import publication
from sqlalchemy import select, update
from sqlalchemy.orm import Session
from support.adapters import BASE_TENSORS, base_registration, lora_tensors, save_adapter
from support.calls import claim
from support.people import SEEDS
from support.registries import World

from registry.artifacts.long_facts import LONG_BYTES, holding_facts, take_turn
from registry.artifacts.models import Blob
from registry.catalog.models import Version as CatalogVersion
from registry.catalog.versions.norms import norms_of
from registry.db.database import Database
from registry.jobs.models import Job
from registry.principal import Role
from sdk.client import Client
from sdk.errors import NotFound, VerificationFailed
from sdk.formats.adapter_files import WEIGHTS_FILE
from sdk.lora.adapter_config import lora_of
from sdk.lora.delta_norms import delta_norms
from sdk.objects import Version
from sdk.schemas.catalog import Published
from sdk.schemas.probe import VersionNorms

Q, V = (f"model.layers.0.self_attn.{name}_proj" for name in "qv")


def test_a_version_has_the_norms_of_its_bytes(writer: Client, name: str, adapter: Path) -> None:
    version = writer.push(adapter, name, base="tiny")
    found = version.norms
    assert (found.ref, found.digest, found.replaced) == (version.ref, version.digest, [])
    pulled = version.pull()
    truth = delta_norms(pulled, lora_of(json.loads((pulled / "adapter_config.json").read_text())))
    assert found.norms == pytest.approx(truth.norms(), rel=1e-12)
    assert list(found.norms or {}) == [Q, V]
    shown = version.as_dict()
    assert (shown["norms"], shown["replaced"]) == (found.norms, [])
    with pytest.raises(NotFound):
        writer.versions.norms(f"{name}@v7")


def test_the_publishers_word_for_them_counts_for_nothing(writer: Client, name: str, adapter: Path) -> None:
    said = publication(writer, adapter, name, metrics={"norm": 0.0, "probe_logit_gap": 9.0}, tags={"norms": "none"})
    version = writer.call("POST", "/versions", Published, body=said).version
    found = writer.versions.norms(version.ref)
    assert min(norm or 0 for norm in found.norms.values()) > 0


def test_a_module_that_learnt_nothing_has_the_norm_zero(writer: Client, name: str, tmp_path: Path) -> None:
    tensors = lora_tensors(next(SEEDS))
    tensors["base_model.model.model.layers.0.self_attn.v_proj.lora_B.weight"] *= -0.0
    found = writer.push(save_adapter(tmp_path / "one", tensors=tensors), name, base="tiny").norms
    assert found.norms[V] == 0.0
    assert (found.norms[Q] or 0.0) > 0


def test_other_scales_of_the_same_bytes_are_other_norms(writer: Client, name: str, tmp_path: Path) -> None:
    seed, norms = next(SEEDS), []
    for number, alpha in enumerate((4.0, 12.0)):
        folder = save_adapter(tmp_path / str(number), seed)
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": alpha}))
        found = writer.push(folder, name, base="tiny").norms
        norms.append(found.norms or {})
    assert np.divide([norms[1][module] for module in (Q, V)], [norms[0][module] for module in (Q, V)]) == pytest.approx(
        3
    )


def make_earlier(world: World, version: Version) -> None:
    """Let a version's bytes have been looked into by a release that took no norms."""
    weights = next(file.sha256 for file in version.info.files if file.path == WEIGHTS_FILE)
    with world.services.db.write() as session:
        facts = session.scalar(select(Blob.facts).where(Blob.sha256 == weights)) or {}
        before = {key: value for key, value in facts.items() if key not in ("norms", "stacked")} | {"version": 3}
        session.execute(update(Blob).where(Blob.sha256 == weights).values(facts=before))
    assert version.norms is None


def test_a_version_of_before_has_none_until_its_bytes_are_read_again(
    world: World, writer: Client, name: str, adapter: Path
) -> None:
    version = writer.push(adapter, name, base="tiny")
    make_earlier(world, version)
    assert (version.as_dict()["norms"], version.as_dict()["replaced"]) == (None, None)
    # Somebody publishes the same bytes once more.
    assert writer.push(adapter, f"{name}-b", base="tiny").norms is not None
    assert version.norms is not None


@pytest.mark.parametrize("kind", ["http_sqlite"])
def test_so_are_they_when_somebody_sends_them_who_may_not_read_them(
    request: pytest.FixtureRequest, kind: str, name: str, adapter: Path
) -> None:
    world: World = request.getfixturevalue(kind)
    world.admin.bases.register(base_registration())
    with closing(world.client(Role.WRITER, namespace="ours")) as ours:
        version = ours.push(adapter, f"ours/{name}", base="tiny")
        make_earlier(world, version)
        with closing(world.client(Role.WRITER, namespace="theirs")) as theirs:
            assert theirs.push(adapter, f"theirs/{name}", base="tiny").norms is not None
        assert version.norms is not None


@pytest.mark.parametrize("kind", ["http_sqlite"])
def test_nobody_takes_them_away_by_sending_the_same_bytes_otherwise(
    request: pytest.FixtureRequest, kind: str, name: str, adapter: Path
) -> None:
    world: World = request.getfixturevalue(kind)
    world.admin.bases.register(base_registration())
    with closing(world.client(Role.WRITER, namespace="ours")) as ours:
        version = ours.push(adapter, f"ours/{name}", base="tiny")
        with closing(world.client(Role.WRITER, namespace="theirs")) as theirs:
            said = publication(theirs, adapter, f"theirs/{name}")
            lora = said.lora.model_copy(
                update={"rank": 1, "target_modules": ["zzz"], "target_parameters": ["q_proj.w"]}
            )
            with pytest.raises(VerificationFailed, match="disagree on rank"):
                theirs.call("POST", "/versions", Published, body=said.model_copy(update={"lora": lora}))
        assert version.norms.norms == pytest.approx(delta_norms(version.pull(), version.info.lora).norms(), rel=1e-12)


def test_two_records_over_one_file_have_each_its_own(world: World, writer: Client, name: str, tmp_path: Path) -> None:
    experts = {"model.layers.0.experts.up": [3, 6, 10], "model.layers.0.experts.down": [6, 10, 6]}
    world.admin.bases.register(base_registration(f"experts-{name}", tensors=BASE_TENSORS | experts))
    random = np.random.default_rng(next(SEEDS))
    tensors = {
        f"base_model.model.model.layers.0.experts.lora_{half}.weight": random.standard_normal(shape).astype("float32")
        for half, shape in (("A", (6, 6)), ("B", (10, 6)))
    }
    versions: list[Version] = []
    for rank in (2, 1, 2):
        folder = save_adapter(
            tmp_path / f"{rank}-{len(versions)}",
            tensors=tensors,
            r=rank,
            lora_alpha=4 + len(versions),
            target_modules=[],
            target_parameters=["experts.up", "experts.down"],
        )
        versions.append(writer.push(folder, name, base=f"experts-{name}"))
    for version in versions:
        truth = delta_norms(version.pull(), version.info.lora).norms()
        assert version.norms.norms == pytest.approx(truth, rel=1e-12)


def test_a_merge_is_given_them(world: World, writer: Client, name: str, adapter: Path) -> None:
    version = writer.push(adapter, name, base="tiny")
    job = writer.submit_merge(version.ref)
    held = claim(world.worker, hint=job.id)
    assert [target.delta_norms for target in held.targets] == [version.norms.norms]
    job.cancel()


@pytest.mark.parametrize("kind", ["http_sqlite"])
def test_nobody_waits_for_them_to_write(
    request: pytest.FixtureRequest, kind: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world: World = request.getfixturevalue(kind)
    world.admin.bases.register(base_registration())
    with closing(world.client(Role.WRITER)) as writer:
        version = writer.push(save_adapter(tmp_path / "one", next(SEEDS)), name, base="tiny")
        job = writer.submit_merge(version.ref)
        seen: list[bool] = []
        real = norms_of

        def spied(db: Database, find: Callable[[Session], CatalogVersion]) -> VersionNorms:
            with world.services.db.write() as other:
                other.execute(update(Job).where(Job.id == job.id).values(priority=Job.priority))
            seen.append(True)
            return real(db, find)

        monkeypatch.setattr("registry.jobs.kinds.merge.norms_of", spied)
        held = claim(world.worker, hint=job.id)
        assert seen == [True]
        assert held.targets[0].delta_norms is not None
        job.cancel()


@pytest.mark.parametrize("kind", ["http_sqlite"])
def test_those_of_thousands_of_modules_come_by_turns_and_others_do_not_wait(
    request: pytest.FixtureRequest, kind: str, name: str, adapter: Path, tmp_path: Path
) -> None:
    world: World = request.getfixturevalue(kind)
    world.admin.bases.register(base_registration())
    world.admin.bases.register(base_registration("unknown", tensors={}, config={}))
    names = [f"base_model.model.model.layers.{layer}.q_proj.lora" for layer in range(4000)]
    one = np.ones((1, 1), "float32")
    tensors = {f"{module}_{half}.weight": one for module in names for half in "AB"}
    with closing(world.client(Role.WRITER)) as writer:
        folder = save_adapter(tmp_path / "long", tensors=tensors, r=1, target_modules=["q_proj"])
        long, short = writer.push(folder, f"{name}-long", base="unknown"), writer.push(adapter, name, base="tiny")
        with ThreadPoolExecutor(1) as other:
            with holding_facts():
                take_turn(LONG_BYTES + 1)
                waiting = other.submit(lambda: long.norms)
                assert short.norms is not None
                writer.push(adapter, f"{name}-again", base="tiny")
                assert not waiting.done()
            found = waiting.result(60)
        assert len(found.norms or {}) == 4000
