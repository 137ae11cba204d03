"""Scores by row stay as long as the version that they are of, and go with it."""

from __future__ import annotations

from pathlib import Path

import pytest
from contract.removal.helpers import age, is_stored, nothing, same
from support.merging_desk import MergingDesk
from support.registries import World
from support.scored_rows import evaluated, fresh
from support.usage import differing

from registry.artifacts.models import Blob, ManifestRow
from registry.evaluations.models import Evaluation
from sdk.client import Client
from sdk.errors import NotFound


@pytest.fixture
def desk(world: World, tmp_path: Path) -> MergingDesk:
    return MergingDesk.open(world.writer, world.worker, "-", tmp_path)


def test_they_are_kept_with_their_record_and_removed_with_the_version(
    world: World, desk: MergingDesk, admin: Client, tmp_path: Path
) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text('{"prompt": "a", "completion": "b"}\n')
    refs = [desk.push(), desk.push()]
    handed_in = [fresh(), fresh()]
    idents = [evaluated(desk, ref, data, rows) for ref, rows in zip(refs, handed_in, strict=True)]
    digests = [desk.writer.evaluations.get(ident).rows_digest or "" for ident in idents]
    for rows in (Blob, ManifestRow):
        age(world, rows, 1000)
    assert nothing(admin.retention.gc(dry_run=False, grace_hours=0))
    assert desk.writer.evaluations.rows(idents[0]) == handed_in[0]
    admin.versions.delete(refs[0])
    # Whoever reads them just now is not held up.
    admin.retention.gc(dry_run=False, grace_hours=24)
    assert is_stored(world, digests[0])
    age(world, Evaluation, 25, Evaluation.rows_removed_at.is_not(None), column="rows_removed_at")
    planned = admin.retention.gc(dry_run=True, grace_hours=24)
    assert planned.blobs == 1
    same(planned, admin.retention.gc(dry_run=False, grace_hours=24))
    assert [is_stored(world, digest) for digest in digests] == [False, True]
    # By a retention rule as well.
    desk.push()
    admin.retention.set("a", keep_last=1)
    admin.retention.gc(dry_run=False, grace_hours=0)
    assert not is_stored(world, digests[1])
    for ident in idents:
        with pytest.raises(NotFound, match="were removed"):
            desk.writer.evaluations.rows(ident)
    assert differing(world) == {}
    assert "evaluations_bytes" not in {
        name for name, size in admin.quotas.get("-") if name == "evaluations_bytes" and size
    }
