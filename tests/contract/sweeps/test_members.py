"""A member of a sweep is evaluated, compared, shown and pulled by its ref, by those who may see its job."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from contract.sweeps.helpers import Desk
from support.adapters import base_registration
from support.compared import Bench, scored, write_rows
from support.merging_desk import MergingDesk
from support.registries import World
from support.usage import differing

from registry.principal import Role
from registry.promotion.rules.chosen import choosers_of
from registry.promotion.tries import tried_of
from sdk.client import Client
from sdk.errors import InvalidInput, InvalidRef, NotAllowed, NotFound
from sdk.schemas.job_requests import CheckpointRef, EvaluationTarget
from sdk.schemas.lineage import JobNode, SweepNode


def refs_of(desk: Desk, *losses: float, **asked: Any) -> list[str]:
    """Train a sweep whose members stay; return their refs."""
    sweep = desk.begin(**{"publish": "none", **asked})
    desk.train_all(*losses)
    return [f"sweep:{sweep.id}/{number}" for number in range(1, len(losses) + 1)]


@pytest.fixture(scope="module")
def people(http_postgres: World) -> World:
    """One database: what differs between the two is how members are kept, which `test_letting_go` looks at."""
    http_postgres.admin.bases.register(base_registration())
    return http_postgres


@pytest.fixture
def bench(desk: Desk, tmp_path: Path) -> Bench:
    crew = desk.crew
    base = crew.writer.bases.get("tiny")
    return Bench(
        MergingDesk(crew.writer, crew.worker, crew.space, tmp_path, base, tmp_path),
        write_rows(tmp_path / "scored.jsonl"),
    )


def test_members_are_tried_on_the_rows_that_choose_and_on_those_that_score_them(desk: Desk, bench: Bench) -> None:
    adapter, db = f"{desk.crew.space}/a", desk.world.services.db

    def tries() -> dict[str, int]:
        with db.read() as session:
            return {one.dataset: one.digests for one in tried_of(session, adapter)}

    _, two, _ = refs_of(desk, 1.2, 0.9, 1.1)
    # Before there is an adapter of that name.
    assert tries() == {desk.held_out: 3}
    bench.score(scored(48), two)
    (score,) = desk.writer.get(two).evaluations
    assert tries() == {desk.held_out: 3, score.dataset: 1}
    # What is made of one has its bytes.
    desk.writer.job(desk.writer.get(two).info.job.id).publish()
    assert tries() == {desk.held_out: 3, score.dataset: 1}
    with db.read() as session:
        choosers = choosers_of(session, score.digest or "", desk.crew.space)
    assert [one.dataset for one in choosers] == [desk.held_out]
    assert differing(desk.world) == {}


def test_members_are_scored_and_compared_and_what_is_made_of_them_has_the_scores(desk: Desk, bench: Bench) -> None:
    writer = desk.writer
    one, two, _ = refs_of(desk, 1.2, 0.9, 1.1)
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
    assert version.info.training["sweep"] == two.removeprefix("sweep:")
    assert "checkpoint_step" not in version.info.training
    assert [found.id for found in version.evaluations] == [score.id]
    (pair,) = writer.compare([one, version.ref]).pairs
    assert pair.better == version.ref
    found = writer.search(f"name = {version.info.adapter} and eval[{score.dataset[:12]}].loss < 0.9")
    assert [brief.ref for brief in found] == [version.ref]
    # Its lineage names the job, the sweep, and the other members.
    nodes = writer.lineage(version.ref, direction="up").nodes
    assert [node.member for node in nodes if isinstance(node, JobNode)] == [two]
    (sweep,) = (node for node in nodes if isinstance(node, SweepNode))
    assert sweep.members == [one, two, one.replace("/1", "/3")]


def test_a_member_is_shown_as_the_version_that_it_may_become(desk: Desk, tmp_path: Path) -> None:
    writer, name = desk.writer, f"{desk.crew.space}/a"
    ref, *_ = refs_of(desk, 1.2, 0.9, 1.1)
    member = writer.get(ref)
    shown = member.as_dict()
    assert (shown["ref"], shown["number"], shown["state"], shown["adapter"]) == (ref, None, "kept", name)
    assert (shown["aliases"], shown["evaluations"], shown["norms"]) == ([], [], None)
    assert (shown["base"]["id"], shown["lora"]["rank"]) == ("tiny", 2)
    assert (shown["metrics"]["eval_loss"], shown["training"]["lr"]) == (1.2, 1e-4)
    series = writer.versions.series(ref)
    assert series.job == member.info.job.id
    # It is pulled as it is, and nobody takes it for a version of the adapter afterwards.
    folder = writer.pull(ref, tmp_path / "pulled")
    assert {path.name for path in folder.iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}
    with pytest.raises(InvalidInput, match=f"{ref} is a member of a sweep, and only the registry knows .* offline="):
        writer.pull(ref, offline=True)
    with pytest.raises(NotFound, match="is not in the cache"):
        writer.pull(f"{name}@sha256:{member.digest}", offline=True)
    assert writer.search(f"name = {name}") == []
    version = writer.job(member.info.job.id).publish()
    same = {"base", "lora", "method", "quantization", "dataset", "metrics", "parents", "job", "libraries", "files"}
    assert version.info.model_dump(include=same) == member.info.model_dump(include=same)
    assert writer.diff(ref, version.ref).same


def test_a_member_is_visible_as_its_job_is(desk: Desk, acting: Callable[..., Client], rows: Path) -> None:
    ref, *_ = refs_of(desk, 1.2, 0.9, 1.1)
    stranger, reader = acting(**{f"not-{desk.crew.space}": Role.ADMIN}), acting(**{desk.crew.space: Role.READER})
    assert reader.get(ref).ref == ref
    with pytest.raises(NotAllowed):
        reader.submit_evaluation(ref, data=desk.held_out)
    missing = f"there is no {ref}; see the members of a sweep with: adapterctl sweep show "
    for asked in (
        lambda: stranger.get(ref),
        lambda: stranger.versions.series(ref),
        lambda: stranger.compare([ref, ref.replace("/1", "/2")]),
        lambda: stranger.submit_evaluation(ref, data=rows),
    ):
        with pytest.raises(NotFound, match=missing):
            asked()
    with pytest.raises(NotFound, match=missing.replace("/1", "/9")):
        desk.writer.get(ref.replace("/1", "/9"))


def test_a_member_is_no_version_where_only_a_version_will_do(desk: Desk, tmp_path: Path) -> None:
    writer, ref = desk.writer, "sweep:3f1c2a9b7d20/4"
    sentence = f"{ref} is a member of a sweep and not a version, and only a version will do here; make one of it with "
    for asked in (
        lambda: writer.promote(ref, "production"),
        lambda: writer.versions.archive(ref),
        lambda: writer.versions.delete(ref),
        lambda: writer.versions.annotate(ref, note="good"),
        lambda: writer.versions.norms(ref),
        lambda: writer.versions.export(ref, tmp_path / "a.gguf"),
        lambda: writer.versions.export_plain(ref, tmp_path / "plain"),
        lambda: writer.signatures.sign(ref),
        lambda: writer.submit_merge(ref),
        lambda: writer.submit_combine(f"{desk.crew.space}/b", {ref: 1.0, "a@v1": 1.0}),
        lambda: writer.lineage(ref),
    ):
        with pytest.raises(InvalidRef, match=sentence):
            asked()


HOSTILE = [
    "sweep:",
    "sweep:x/0",
    "sweep:../1",
    f"sweep:x/{'9' * 400}",
    "SWEEP:X/1",
    "sweep:X/1",
    "sweep:\u0445/1",
    "sweep:x/\u0661",
]


def test_hostile_refs_are_refused_by_every_address(people: World) -> None:
    http = people.http
    for ref in [*HOSTILE, "sweep:x/1\0", "sweep:nobody/1"]:
        merge = {"request": {"kind": "merge", "ref": ref}}
        target = {"request": {"kind": "evaluation", "targets": [{"ref": ref}], "data": "0" * 64}}
        answers = [
            *(http.get(path, params={"ref": ref}) for path in ("/api/v1/resolve", "/api/v1/version/series")),
            http.get("/api/v1/version/norms", params={"ref": ref}),
            http.get("/api/v1/evaluations/comparison", params={"ref": [ref, f"{ref}2"]}),
            http.get("/api/v1/lineage", params={"of": ref}),
            *(http.post("/api/v1/jobs", json=body) for body in (merge, target)),
            *(http.post(f"/api/v1/version/{verb}", json={"ref": ref}) for verb in ("archive", "delete")),
        ]
        assert {answer.status_code for answer in answers} <= {404, 422}, (ref, [one.status_code for one in answers])
        assert all(answer.json()["error"]["message"] for answer in answers)


def test_a_member_that_has_kept_nothing_says_why(desk: Desk) -> None:
    sweep = desk.begin()
    refs = [f"sweep:{sweep.id}/{number}" for number in (1, 2, 3)]
    jobs = [member.job for member in sweep.members]
    held = [desk.hold() for _ in refs]
    with pytest.raises(NotFound, match=f"{refs[0]} has no adapter yet: job {jobs[0]} is running; wait for it with"):
        desk.writer.get(refs[0])
    desk.finish(held[0], 1.0)
    desk.finish(held[1], 0.5)
    desk.crew.fail(held[2], "data")
    desk.go_on()
    desk.world.services.checkpoints.expire()
    with pytest.raises(NotFound, match=f"{refs[2]} has no adapter: job {jobs[2]} is failed; see why with"):
        desk.writer.get(refs[2])
    with pytest.raises(NotFound, match=f"member 1 of sweep {sweep.id} was not kept: the sweep has ended, and only "):
        desk.writer.submit_evaluation(refs[0], data=desk.held_out)
    with pytest.raises(NotFound, match=f"{refs[1]} was published, and is {desk.crew.space}/a@v1 since; name that"):
        desk.writer.get(refs[1])
    # Its curve stays, as that of a job.
    assert desk.writer.versions.series(refs[0]).job == jobs[0]


def test_no_training_goes_on_from_what_a_member_has_kept(desk: Desk) -> None:
    ref, *_ = refs_of(desk, 1.2, 0.9, 1.1)
    job = desk.writer.get(ref).info.job.id
    with pytest.raises(
        InvalidInput, match=f"job {job} is a member of a sweep and has ended, so it has no checkpoint to resume from"
    ):
        desk.crew.submit(from_checkpoint=CheckpointRef(job=job))


def test_the_digest_of_a_member_is_pinned_for_the_worker(desk: Desk) -> None:
    ref, *_ = refs_of(desk, 1.2, 0.9, 1.1)
    digest = desk.writer.get(ref).digest
    job = desk.writer.submit_evaluation(ref, data=desk.held_out)
    asked, bare = (EvaluationTarget.model_validate(one) for one in job.view.request["targets"])
    assert (asked.ref, asked.digest, bare.beside) == (ref, digest, "base")
    other = {**job.view.request, "targets": [{"ref": ref, "digest": "0" * 64}]}
    answer = desk.world.http.post("/api/v1/jobs", json={"request": other})
    assert (answer.status_code, answer.json()["error"]["message"]) == (
        422, f"{ref} has the digest {digest[:12]}, not {'0' * 12}; leave the digest out",
    )  # fmt: skip
