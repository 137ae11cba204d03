"""Merged models that are versions go with the version; those that are none are kept for their jobs, as ever."""

from __future__ import annotations

from pathlib import Path

import pytest
from contract.removal.helpers import age, is_stored, nothing, same
from support.merging_desk import MergingDesk
from support.registries import World
from support.usage import differing

from registry.artifacts.models import Blob, ManifestRow
from sdk.client import Client


@pytest.fixture
def desk(world: World, tmp_path: Path) -> MergingDesk:
    return MergingDesk.open(world.writer, world.worker, "-", tmp_path, dtype="float32")


def weights_of(desk: MergingDesk, ref: str) -> str:
    return next(file.sha256 for file in desk.writer.get(ref).info.files if file.path == "model.safetensors")


def test_they_are_pulled_from_every_storage_and_removed_with_their_version(
    world: World, desk: MergingDesk, admin: Client, tmp_path: Path
) -> None:
    adapter, out = desk.push(), desk.model()
    ref = desk.merged(adapter, out=out)["version"]
    sha256 = weights_of(desk, ref)
    pulled = desk.writer.pull(ref, tmp_path / "pulled")
    assert (pulled / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()
    for rows in (Blob, ManifestRow):
        age(world, rows, 1000)
    # However long ago its job was.
    assert nothing(admin.retention.gc(dry_run=False, grace_hours=0, keep_merged_days=1))
    admin.versions.delete(ref)
    planned = admin.retention.gc(dry_run=True, grace_hours=0)
    # The config and the tokenizer are the base's blobs.
    assert (planned.manifests, planned.blobs) == (1, 1)
    same(planned, admin.retention.gc(dry_run=False, grace_hours=0))
    assert not is_stored(world, sha256)
    assert differing(world) == {}
    # Made again, it is there again, under the next number.
    assert desk.merged(adapter, out=out)["version"] == "m@v2"
    assert is_stored(world, sha256)


def test_a_run_that_deletes_versions_frees_what_it_plans_to(world: World, desk: MergingDesk, admin: Client) -> None:
    adapter = desk.push()
    kept = [weights_of(desk, desk.merged(adapter)["version"]) for _ in range(2)]
    desk.merged(adapter, None)
    for rows in (Blob, ManifestRow):
        age(world, rows, 1000)
    admin.retention.set("m", keep_last=1)
    later = admin.retention.gc(dry_run=True, grace_hours=1)
    assert (later.retired_versions, later.manifests) == (["m@v1"], 0)
    planned = admin.retention.gc(dry_run=True, grace_hours=0)
    assert (planned.manifests, planned.blobs) == (1, 1)
    same(planned, admin.retention.gc(dry_run=False, grace_hours=0))
    assert [is_stored(world, sha256) for sha256 in kept] == [False, True]
    assert differing(world) == {}
