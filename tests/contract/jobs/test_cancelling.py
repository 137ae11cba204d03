"""A job whose cancelling was accepted never succeeds: whatever its worker hands in, nothing is made of it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from contract.jobs.helpers import Crew
from contract.test_combinations import Desk as CombiningDesk
from contract.test_previews import shown, text
from sqlalchemy import func, select
from support import calls
from support.merging_desk import MergingDesk
from support.people import SEEDS
from support.registries import World
from support.scored_rows import CONDITIONS, fresh, report_of, write_file
from support.soak import scale

from registry.artifacts.models import Upload
from registry.catalog.models import Adapter, Origin, Version
from registry.errors import Conflict as RegistryConflict
from registry.evaluations.models import Evaluation
from registry.jobs.kinds.known import read_request, rules_of
from registry.jobs.kinds.rules import CompletionServices, HandedIn
from registry.principal import LOCAL, Role
from registry.series.version_series import keep_series
from registry.sweeps.members import keep_result
from registry.usage.models import Usage
from sdk.client import Client
from sdk.errors import Conflict
from sdk.pulling.transfer import hash_file
from sdk.schemas.jobs import JobView
from sdk.schemas.removal import GcRequest
from sdk.schemas.work import Assignment, Completion

TWO_KINDS = ("training", "evaluation")
KINDS = (*TWO_KINDS, "combination", "merge", "registered merge", "preview")


@dataclass
class Finished:
    """An attempt that has made its result, and has sent its files, but has not handed it in."""

    world: World
    space: str
    writer: Client
    worker: Client
    held: Assignment
    completion: Completion

    @property
    def job(self) -> str:
        return self.held.job

    def hand_in(self) -> JobView:
        return self.worker.call("POST", f"/jobs/{self.job}/complete", JobView, body=self.completion)

    def made(self) -> dict[str, int]:
        """How much of its namespace's records name the job, what it has in storage, and what is reserved there."""
        with self.world.services.db.read() as session:
            usage = session.get(Usage, self.space) or Usage()
            open_uploads = select(func.count()).where(Upload.namespace == self.space, Upload.finished_at.is_(None))
            return {
                "origins": session.scalar(select(func.count()).where(Origin.job == self.job)) or 0,
                "scores": session.scalar(select(func.count()).where(Evaluation.job_id == self.job)) or 0,
                "merged_bytes": usage.merged_bytes or 0,
                "reserved_bytes": usage.reserved_bytes or 0,
                "uploads": session.scalar(open_uploads) or 0,
            }


NOTHING = {"origins": 0, "scores": 0, "merged_bytes": 0, "reserved_bytes": 0, "uploads": 0}


@pytest.fixture
def finished(
    request: pytest.FixtureRequest,
    people: World,
    acting: Callable[..., Client],
    space: str,
    rows: Path,
    tmp_path: Path,
) -> Finished:
    """An attempt of each kind of job."""
    if people.services.db.engine.dialect.name == "postgresql" and request.param not in TWO_KINDS:
        pytest.skip("two kinds are enough for a second database")
    writer, worker = acting(**{space: Role.WRITER}), acting(**{space: Role.WORKER})

    def of(held: Assignment, **result: Any) -> Finished:
        return Finished(people, space, writer, worker, held, Completion(attempt=held.attempt, **result))

    match request.param:
        case "training":
            crew = Crew(people, space, writer, worker, writer.datasets.add(rows, namespace=space).digest, tmp_path)
            crew.submit()
            held = crew.hold()
            return of(held, version=crew.publication())
        case "combination":
            desk = CombiningDesk(writer, worker, space, tmp_path)
            desk.submit({desk.push("a"): 0.5, desk.push("b"): 0.5})
            held = desk.claim()
            return of(held, combination=desk.made(held))
        case "preview":
            made = Crew(people, space, writer, worker, writer.datasets.add(rows, namespace=space).digest, tmp_path)
            writer.datasets.submit_preview(rows, base="tiny")
            return of(made.hold(queues=["cpu"]), preview=shown(text(1), file_rows=1))
    merging = MergingDesk.open(writer, worker, space, tmp_path)
    ref = merging.push()
    if request.param == "evaluation":
        writer.submit_evaluation([ref], data=rows, precision="native", only=True, metrics="rouge_l,chrf")
        held = merging.claim()
        scores = fresh()
        path = tmp_path / "scores"
        file = write_file(path, scores)
        upload, report = (
            worker.uploader.upload({file.digest: path}, "sending", space),
            report_of(scores, file, conditions=CONDITIONS),
        )
        return of(held, evaluations=[calls.scored(held.targets[0], report=report, upload=upload)])
    merging.submit(ref, "m" if request.param == "registered merge" else None)
    held = merging.claim()
    return of(held, merge=merging.result(merging.model()))


every_kind = pytest.mark.parametrize("finished", KINDS, indirect=True)
two_kinds = pytest.mark.parametrize("finished", TWO_KINDS, indirect=True)


@two_kinds
def test_a_result_that_comes_after_the_cancel_is_dropped_and_the_worker_is_told(finished: Finished) -> None:
    assert finished.writer.jobs.cancel(finished.job).state == "running"
    dropped = finished.hand_in()
    assert (dropped.state, dropped.reason, dropped.result) == ("cancelled", "cancelled", None)
    assert finished.made() == NOTHING
    # The answer may get lost, and people may insist.
    assert finished.hand_in().state == "cancelled"
    assert finished.writer.jobs.cancel(finished.job).state == "cancelled"
    assert finished.writer.jobs.view(finished.job).message == dropped.message


@every_kind
def test_a_cancel_between_the_hand_in_and_its_last_transaction_undoes_all_of_it(finished: Finished) -> None:
    services = finished.world.services
    held = services.jobs.get(finished.job, who=LOCAL)
    who = services.tokens.check(finished.worker.config.token)
    finished.writer.jobs.cancel(finished.job)
    # The registry saw the job as it was before the cancel, and works on what was handed in.
    completing = CompletionServices(
        db=services.db,
        artifacts=services.artifacts,
        publisher=services.publisher,
        keep_scores=services.evaluations.keep,
        keep_series=keep_series,
        keep_member=keep_result,
        look_for_training_rows=services.contamination.look,
    )
    rules = rules_of(held.kind)
    stored = read_request(held.kind, held.request, job_id=held.id)
    with pytest.raises(RegistryConflict, match=f"job {finished.job} was cancelled"):
        rules.complete(completing, stored, HandedIn(job=held, completion=finished.completion, who=who))
    assert finished.hand_in().state == "cancelled"
    assert finished.made() == NOTHING
    with services.db.read() as session:
        states = session.scalars(
            select(Version.state)
            .join(Adapter)
            .where(Adapter.namespace == finished.space, Version.created_by == who.name)
        )
        assert set(states) <= {"failed"}


@two_kinds
def test_a_cancel_after_the_result_is_refused_and_the_result_stays(finished: Finished) -> None:
    done = finished.hand_in()
    assert done.state == "succeeded"
    made = finished.made()
    with pytest.raises(Conflict, match="has succeeded and can't be cancelled"):
        finished.writer.jobs.cancel(finished.job)
    again = finished.hand_in()
    assert (again.state, again.result) == (done.state, done.result)
    assert finished.made() == made


@pytest.mark.parametrize("finished", ["training"], indirect=True)
def test_what_was_sent_for_a_dropped_result_is_garbage(finished: Finished) -> None:
    services, storage = finished.world.services, finished.world.services.artifacts.storage
    version = finished.completion.version
    # Others may have the same adapter_config.json.
    sent = {file.sha256 for file in version.manifest.files if file.path == "adapter_model.safetensors"}

    def stored() -> set[str]:
        return {name.partition(".")[0] for name in storage.list()} & sent

    assert stored() == sent
    finished.writer.jobs.cancel(finished.job)
    finished.hand_in()
    services.removal.collect(request=GcRequest(dry_run=False, grace_hours=0), who=LOCAL)
    assert stored() == set()


@pytest.mark.parametrize("finished", ["training"], indirect=True)
def test_a_dropped_result_ends_no_upload_of_others(finished: Finished, tmp_path: Path) -> None:
    file = tmp_path / "other"
    file.write_text(str(next(SEEDS)))
    sha256, _ = hash_file(file)
    other = finished.writer.uploader.upload({sha256: file}, "sending", finished.space)
    version = finished.completion.version
    told = version.model_copy(update={"upload": other})
    finished.completion = finished.completion.model_copy(update={"version": told})
    finished.writer.jobs.cancel(finished.job)
    assert finished.hand_in().state == "cancelled"
    with finished.world.services.db.read() as session:
        assert session.get_one(Upload, other).finished_at is None


def test_of_a_cancel_and_a_result_at_the_same_moment_one_wins(crew: Crew) -> None:
    outcomes = set()
    for n in range(scale(80)):
        crew.submit(adapter=f"{crew.space}/a")
        held = crew.hold()
        result = Completion(attempt=held.attempt, version=crew.publication())
        together = Barrier(2)

        def cancel(held: Assignment = held, together: Barrier = together) -> bool:
            together.wait()
            try:
                crew.writer.jobs.cancel(held.job)
            except Conflict:
                return False
            return True

        def complete(held: Assignment = held, result: Completion = result, together: Barrier = together) -> JobView:
            together.wait()
            return crew.worker.call("POST", f"/jobs/{held.job}/complete", JobView, body=result)

        with ThreadPoolExecutor(2) as pool:
            cancelling, completing = pool.submit(cancel), pool.submit(complete)
            accepted, answer = cancelling.result(), completing.result()
        view = crew.view(held.job)
        assert answer.state == view.state == ("cancelled" if accepted else "succeeded"), n
        with crew.world.services.db.read() as session:
            made = session.scalar(select(func.count()).where(Origin.job == held.job))
        assert made == (0 if accepted else 1)
        outcomes.add(view.state)
    assert outcomes
