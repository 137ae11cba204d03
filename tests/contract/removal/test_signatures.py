"""What was derived from a dataset's rows stays as long as the dataset, and goes with it."""

from __future__ import annotations

from pathlib import Path

from contract.removal.helpers import age, is_stored, nothing
from support.merging_desk import MergingDesk
from support.registries import World
from support.usage import differing

from registry.artifacts.models import Blob
from registry.datasets.models import Dataset, DatasetSignatures
from registry.datasets.signatures import Reading, SignedDatasets
from sdk.client import Client


def test_signatures_are_removed_with_their_dataset_and_made_again_with_it(
    world: World, admin: Client, tmp_path: Path
) -> None:
    desk = MergingDesk.open(world.writer, world.worker, "-", tmp_path)
    data = tmp_path / "signed.jsonl"
    data.write_text('{"prompt": "a", "completion": "signed"}\n')
    signed = SignedDatasets(world.services.db, world.services.artifacts, world.services.reading)
    digest = desk.writer.datasets.add(data).digest

    def blob() -> str:
        with signed.opened(digest, Reading()) as found:
            assert found.rows == 1
        with world.services.db.read() as session:
            return session.get_one(DatasetSignatures, (digest, Reading().key)).blob

    first = blob()
    age(world, Blob, 1000)
    assert nothing(admin.retention.gc(dry_run=False, grace_hours=0))
    desk.writer.datasets.remove(digest)
    admin.retention.gc(dry_run=False, grace_hours=24)
    assert is_stored(world, first)
    age(world, Dataset, 25, Dataset.removed_at.is_not(None), column="removed_at")
    assert admin.retention.gc(dry_run=True, grace_hours=24).blobs == 2
    admin.retention.gc(dry_run=False, grace_hours=24)
    assert not is_stored(world, first)
    assert not is_stored(world, digest)
    desk.writer.datasets.add(data)
    assert blob() == first
    assert is_stored(world, first)
    assert differing(world) == {}
