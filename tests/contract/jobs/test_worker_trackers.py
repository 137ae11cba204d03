"""Trackers of trainings, on both databases: a job goes to a worker with their libraries, and keeps its runs."""

from __future__ import annotations

from typing import Any

import pytest
from contract.jobs.helpers import Crew
from support.adapters import SPEC

from registry.errors import Invalid
from registry.jobs import tracking
from registry.principal import LOCAL
from sdk.errors import InvalidInput
from sdk.schemas.job_requests import CheckpointRef
from sdk.schemas.jobs import JobView
from sdk.schemas.trackers import TrackedRun
from sdk.schemas.work import Assignment, Farewell, Heartbeat, HeartbeatReply
from sdk.version import VERSION

RUN = TrackedRun(run="0a1b", step=12)


def to(*trackers: str) -> dict[str, Any]:
    """What is asked for of a training whose points are forwarded."""
    return {"spec": SPEC.model_copy(update={"report_to": ",".join(sorted(trackers))})}


def of(*trackers: str) -> dict[str, Any]:
    """What a worker says of itself that has these libraries."""
    return {"version": VERSION, "scorers": [], "trackers": [*trackers]}


def beat(crew: Crew, held: Assignment, **runs: TrackedRun) -> None:
    body = Heartbeat.model_construct(attempt=held.attempt, events=[], runs=runs)
    crew.worker.call("POST", f"/jobs/{held.job}/heartbeat", HeartbeatReply, body=body)


def test_a_job_goes_to_a_worker_that_has_all_libraries(crew: Crew) -> None:
    job = crew.submit(**to("mlflow", "wandb"))
    assert crew.claim(name="none", **of()) is None
    assert crew.claim(name="one", **of("mlflow")) is None
    assert crew.claim(name="silent", version=VERSION) is None
    assert crew.hold(name="all", **of("mlflow", "trackio", "wandb")).job == job.id
    other = crew.submit()
    assert crew.hold(name="none", **of()).job == other.id


def test_a_tracker_that_no_known_worker_has_is_refused_at_submit(crew: Crew) -> None:
    # Nobody knows which workers will come.
    waiting = crew.submit(**to("wandb"))
    assert crew.claim(name="one", **of("mlflow")) is None
    said = (
        "no worker has the library of wandb; install it on the workers, and start them again: "
        "pip install 'adapterctl[wandb]'"
    )
    assert crew.view(waiting.id).waits == said
    with pytest.raises(InvalidInput, match="or leave report_to out") as caught:
        crew.submit(**to("wandb"))
    assert said in str(caught.value)
    assert caught.value.param == "spec.report_to"
    assert crew.claim(name="two", **of("trackio")) is None
    with pytest.raises(InvalidInput, match="no worker has the libraries of all of mlflow, trackio"):
        crew.submit(**to("mlflow", "trackio"))
    crew.submit(**to("mlflow"))


def test_a_worker_that_has_left_may_come_back_with_its_library(crew: Crew) -> None:
    crew.claim(name="left", **of("wandb"))
    crew.worker.call("POST", "/workers/leave", type(None), body=Farewell(worker="left"))
    crew.claim(name="here", **of())
    # It is taken, with what it waits for.
    assert "no worker has the library of wandb" in (crew.submit(**to("wandb")).waits or "")


def test_an_embedded_registry_refuses_a_tracker_without_its_library(
    crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = crew.services(embedded_home=str(crew.tmp_path))
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    with pytest.raises(Invalid, match=r"lacks the library of wandb; run: pip install 'adapterctl\[wandb\]'") as caught:
        home.jobs.submit(submission=crew.body(**to("wandb")), who=LOCAL)
    assert caught.value.param == "spec.report_to"


def test_the_next_attempt_and_a_job_that_resumes_it_have_its_runs(crew: Crew) -> None:
    job = crew.submit(**to("mlflow"))
    held = crew.hold(**of("mlflow"))
    assert held.runs == {}
    beat(crew, held, mlflow=RUN)
    beat(crew, held)
    assert crew.view(job.id).runs == {"mlflow": RUN}
    crew.release(held)
    again = crew.hold(**of("mlflow"))
    assert again.runs == {"mlflow": RUN}
    beat(crew, again, mlflow=RUN.model_copy(update={"step": 30}))
    crew.checkpoint(again, 20)
    crew.fail(again, "data")
    retried = crew.writer.call("POST", f"/jobs/{job.id}/retry", JobView)
    assert retried.runs == {"mlflow": TrackedRun(run="0a1b", step=30)}
    resumed = crew.submit(**to("mlflow"), from_checkpoint=CheckpointRef(job=job.id))
    assert resumed.runs == retried.runs
    # It may be forwarded to others, or to none.
    assert crew.submit(from_checkpoint=CheckpointRef(job=job.id)).request["spec"].get("report_to") is None


def test_a_job_that_starts_from_one_that_still_runs_gets_runs_of_its_own(crew: Crew) -> None:
    job = crew.submit(**to("mlflow"))
    held = crew.hold(**of("mlflow"))
    beat(crew, held, mlflow=RUN)
    crew.checkpoint(held, 20)
    assert crew.submit(**to("mlflow"), from_checkpoint=CheckpointRef(job=job.id)).runs == {}


def test_a_run_whose_name_leads_out_of_its_folder_is_refused(crew: Crew) -> None:
    crew.submit(**to("tensorboard"))
    held = crew.hold(**of("tensorboard"))
    with pytest.raises(InvalidInput, match=r"tensorboard\.run"):
        beat(crew, held, tensorboard=TrackedRun.model_construct(run="../other", step=1))


def test_workers_show_which_trackers_they_have(crew: Crew) -> None:
    crew.claim(name="says", **of("mlflow", "wandb"))
    shown = {worker.name: worker.trackers for worker in crew.world.admin.workers()}
    assert shown["says"] == ["mlflow", "wandb"]
