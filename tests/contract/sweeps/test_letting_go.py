"""What members of a sweep have kept stays as long as the sweep wants it or an evaluation names it, and no longer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from contract.sweeps.helpers import Desk
from sqlalchemy import select
from support import calls
from support.scored_rows import fresh, report_of, write_file
from support.usage import differing, mismeasured

from registry.artifacts.models import ManifestRow
from registry.catalog.versions.lifecycle import VersionState
from registry.jobs.models import Checkpoint
from registry.principal import LOCAL
from sdk.errors import NotFound
from sdk.schemas.catalog import VersionMove
from sdk.schemas.jobs import JobView
from sdk.schemas.removal import GcRequest
from sdk.schemas.sweep_axes import Values
from sdk.schemas.sweeps import SweepView
from sdk.schemas.work import Assignment

TWO = {"lr": Values(values=[1e-4, 2e-4])}


def begun(desk: Desk, **asked: Any) -> tuple[SweepView, str, Assignment]:
    """Begin a sweep of two members, of which the worse one has ended; return it with its ref, and the other one."""
    sweep = desk.begin(settings=TWO, **asked)
    desk.finish(desk.hold(), 1.0)
    return sweep, f"sweep:{sweep.id}/1", desk.hold()


def evaluation(desk: Desk, ref: str, data: str | None = None) -> JobView:
    return desk.writer.submit_evaluation(ref, data=data or desk.held_out, metrics=["rouge_l", "chrf"], only=True).view


def score(desk: Desk, held: Assignment, tmp_path: Path) -> JobView:
    """Hand in scores with those of rows."""
    rows = fresh()
    file = write_file(tmp_path / "scores", rows)
    upload = desk.crew.worker.uploader.upload({file.digest: tmp_path / "scores"}, "sending", desk.crew.space)
    result = calls.scored(held.targets[0], report=report_of(rows, file), upload=upload)
    return calls.complete(desk.crew.worker, held, evaluations=[result])


def tidied(desk: Desk) -> None:
    """Do what the registry does from time to time, often enough that nothing is left for the next time."""
    for _ in range(2):
        desk.world.services.checkpoints.expire()
    desk.world.services.removal.collect(request=GcRequest(dry_run=False, grace_hours=0), who=LOCAL)


def test_what_an_evaluation_names_stays_until_it_has_ended_and_all_is_given_back(desk: Desk, tmp_path: Path) -> None:
    space, worker = desk.crew.space, desk.crew.worker
    sweep, ref, other = begun(desk)
    waiting = evaluation(desk, ref)
    digest = desk.writer.get(ref).digest
    desk.finish(other, 0.5)
    assert desk.view(sweep).state == "ended"
    tidied(desk)
    with pytest.raises(NotFound, match=f"sweep:{sweep.id}/2 was published"):
        desk.writer.get(f"sweep:{sweep.id}/2")
    # A failed one that is tried again names it, too.
    desk.crew.fail(desk.hold(), "data")
    again = desk.writer.jobs.retry(waiting.id).view
    tidied(desk)
    held = desk.hold()
    assert (held.job, held.targets[0].label, held.targets[0].digest) == (again.id, ref, digest)
    worker.puller.fetch(held.targets[0].manifest, tmp_path)
    assert score(desk, held, tmp_path).state == "succeeded"
    assert desk.writer.quotas.get(space).evaluations_bytes > 0
    tidied(desk)
    with pytest.raises(NotFound, match=f"member 1 of sweep {sweep.id} was not kept"):
        desk.writer.get(ref)
    # The scores stay, their rows go with what they are of.
    (scores,) = desk.writer.evaluations(job=again.id)
    assert (scores.ref, scores.digest, scores.rows_digest) == (ref, digest, None)
    with desk.world.services.db.read() as session:
        assert session.get_one(ManifestRow, digest).collected_at is not None
    used = desk.writer.quotas.get(space)
    assert (used.checkpoints_bytes, used.evaluations_bytes) == (0, 0)
    assert (differing(desk.world), mismeasured(desk.world.services, space)) == ({}, [])


def submitted_at_its_end(desk: Desk, ref: str, other: Assignment) -> list[JobView]:
    """Evaluate a member at the moment at which the last one ends, and what nobody wants is removed; return the jobs."""
    submitted: list[JobView] = []
    expire = desk.world.services.checkpoints.expire
    acts = [lambda: submitted.append(evaluation(desk, ref)), lambda: desk.finish(other, 0.5), expire, expire]
    calls.at_once(acts, refused=NotFound)
    return submitted


def test_a_sweep_that_ends_while_its_member_is_submitted_keeps_it_or_refuses_it(desk: Desk, tmp_path: Path) -> None:
    for number in range(3):
        sweep, ref, other = begun(desk)
        submitted = submitted_at_its_end(desk, ref, other)
        tidied(desk)
        assert desk.view(sweep).state == "ended"
        if submitted:
            folder = tmp_path / str(number)
            folder.mkdir()
            desk.crew.worker.puller.fetch(desk.hold().targets[0].manifest, folder)
            assert desk.writer.get(ref).ref == ref
            desk.writer.jobs.cancel(submitted[0].id)
            desk.world.services.claims.requeue_expired()
        with desk.world.services.db.read() as session:
            left = session.scalars(select(Checkpoint.kept).where(Checkpoint.job_id == sweep.members[0].job)).all()
        assert left == ([True] if submitted else [])


def test_a_version_that_is_deleted_leaves_its_member_as_it_was(desk: Desk, tmp_path: Path) -> None:
    _, ref, _ = begun(desk, publish="none")
    version = desk.writer.job(desk.writer.get(ref).info.job.id).publish()
    evaluation(desk, ref)
    held = desk.hold()
    score(desk, held, tmp_path)
    desk.world.services.version_states.move(VersionMove(ref=version.ref), VersionState.DELETED, who=LOCAL)
    tidied(desk)
    desk.crew.worker.puller.fetch(held.targets[0].manifest, tmp_path)
    member = desk.writer.get(ref)
    assert [one.rows_digest is None for one in member.evaluations] == [False]


def test_rows_that_a_member_was_trained_on_are_told(desk: Desk, tmp_path: Path) -> None:
    _, ref, _ = begun(desk, publish="none")
    evaluation(desk, ref, desk.crew.data)
    score(desk, desk.hold(), tmp_path)
    (scores,) = desk.writer.get(ref).evaluations
    assert scores.contamination is not None
    assert (scores.contamination.exact, scores.contamination.not_checked) == (1, [])
