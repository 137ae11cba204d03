"""A member of a sweep is evaluated, compared and shown by its ref, for those who may see its job."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from support.compared import Bench, scored, write_rows
from support.merging_desk import MergingDesk
from support.registries import World
from support.sweep_members import kept

from sdk.errors import InvalidInput, NotFound


@pytest.fixture
def sweep() -> str:
    return uuid.uuid4().hex[:12]


@pytest.fixture
def bench(desk: MergingDesk, tmp_path: Path) -> Bench:
    return Bench(desk, write_rows(tmp_path / "scored.jsonl"))


def test_members_are_scored_and_compared_and_what_is_made_of_them_has_the_scores(
    people: World, bench: Bench, rows: Path, sweep: str
) -> None:
    desk, writer = bench.desk, bench.desk.writer
    one, two = (kept(people, desk, rows, sweep, number) for number in (1, 4))
    bench.score(scored(48), one)
    bench.score(scored(48, loss=0.8), two)
    (pair,) = writer.compare([one, two]).pairs
    assert (pair.a, pair.b, pair.better) == (one, two, two)
    member = writer.get(two)
    (score,) = member.evaluations
    assert (score.ref, score.digest) == (two, member.digest)
    assert writer.evaluations(digest=member.digest) == [score]
    # The digest is that of the version which is made of it.
    version = writer.job(member.info.job.id).publish()
    assert (version.number, version.digest) == (1, member.digest)
    assert [found.id for found in version.evaluations] == [score.id]
    (pair,) = writer.compare([one, version.ref]).pairs
    assert pair.better == version.ref
    found = writer.search(f"name = {version.info.adapter} and eval[{score.dataset[:12]}].loss < 0.9")
    assert [brief.ref for brief in found] == [version.ref]


def test_a_member_is_shown_as_the_version_that_it_may_become(
    people: World, desk: MergingDesk, rows: Path, sweep: str, tmp_path: Path
) -> None:
    ref = kept(people, desk, rows, sweep, 3)
    member = desk.writer.get(ref)
    shown = member.as_dict()
    assert (shown["ref"], shown["number"], shown["state"], shown["adapter"]) == (ref, None, "kept", desk.named("a"))
    assert (shown["aliases"], shown["evaluations"], shown["norms"]) == ([], [], None)
    assert (shown["base"]["fingerprint"], shown["lora"]["rank"]) == (desk.base.fingerprint, 2)
    assert (shown["metrics"], shown["training"]["lr"]) == ({"loss": 0.5, "eval_loss": 0.6}, 2e-4)
    # It is pulled as it is, and nobody takes it for a version of the adapter afterwards.
    folder = desk.writer.pull(ref, tmp_path / "pulled")
    assert {path.name for path in folder.iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}
    with pytest.raises(InvalidInput, match=f"{ref} is a member of a sweep, and only the registry knows .* --offline"):
        desk.writer.pull(ref, offline=True)
    with pytest.raises(NotFound, match="is not in the cache"):
        desk.writer.pull(f"{desk.named('a')}@sha256:{member.digest}", offline=True)
    assert desk.writer.search(f"name = {desk.named('a')}") == []
    version = desk.writer.job(member.info.job.id).publish().info
    same = {"base", "lora", "method", "quantization", "dataset", "metrics", "parents", "job", "libraries", "files"}
    assert version.model_dump(include=same) == member.info.model_dump(include=same)
    assert desk.writer.diff(ref, version.ref).same
