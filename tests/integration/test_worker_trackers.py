"""Trainings whose points are forwarded, by real workers, to MLflow's own server and to TensorBoard's files."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import processes, tracked
from support.points import float32
from support.soak import SOAKING
from support.waiting import wait_until
from support.workplace import Workplace, opened

pytestmark = pytest.mark.slow

SECRET = "s3cretword"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    with opened(tmp_path_factory.mktemp("forwarded"), lease_s=20.0) as place:
        yield place


@pytest.fixture
def board(place: Workplace, tmp_path: Path) -> Path:
    return tmp_path / "board"


def stored(place: Workplace, job: str) -> tracked.Values:
    """The series of a job, as the registry has them."""
    found = place.client.jobs.series(job, buckets=2000).series
    return {name: dict(zip(series.step, map(float32, series.last), strict=True)) for name, series in found.items()}


def rounded(values: tracked.Values) -> tracked.Values:
    return {name: {step: float32(value) for step, value in points.items()} for name, points in values.items()}


def test_a_second_attempt_goes_on_with_the_runs_of_a_killed_worker(
    place: Workplace, board: Path, tmp_path: Path
) -> None:
    with tracked.mlflow_server(tmp_path / "server") as url:
        where = {"MLFLOW_TRACKING_URI": url, "TENSORBOARD_LOGGING_DIR": str(board)}
        with place.worker(forks=True, **where) as worker:
            wait_until(place.workers, lambda: worker.text)
            job = place.submit(steps=400, every_steps=20, report_to="mlflow,tensorboard", holdout=0.4, eval_every="50")
            forwarded = lambda: min((run.step for run in place.job(job).runs.values()), default=0) > 0  # noqa: E731
            wait_until(lambda: len(place.job(job).runs) == 2 and forwarded(), lambda: f"{worker.text}{place.said(job)}")
            runs = {name: run.run for name, run in place.job(job).runs.items()}
            worker.kill()
        with place.worker(forks=True, **where):
            assert place.wait_for_state(job, "succeeded").attempt == 2
        said, ended = place.said(job), place.job(job)
        assert {name: run.run for name, run in ended.runs.items()} == runs
        assert "not forwarded" not in said
        expected = stored(place, job)
        assert {"loss", "lr", "eval_loss"} <= expected.keys()
        assert len(expected["loss"]) == 400
        # The library asks this process's environment where the server is.
        from mlflow import MlflowClient

        client = MlflowClient(url)
        assert rounded(tracked.in_mlflow(client, runs["mlflow"])) == expected
        run = client.get_run(runs["mlflow"])
        assert (run.info.status, run.data.tags["adapterctl.job"]) == ("FINISHED", job)
        assert {"adapter", "base", "rank", "lr", "max_length"} <= run.data.params.keys()
        assert run.data.params["job"] == job
        scalars, texts = tracked.in_tensorboard(board / runs["tensorboard"])
        assert scalars == expected
        assert "finished" in texts["state"]


def test_a_tracker_that_hangs_neither_slows_a_training_nor_keeps_another_tracker(place: Workplace, board: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with place.worker(forks=True, MLFLOW_TRACKING_URI=url, TENSORBOARD_LOGGING_DIR=str(board)) as worker:
            job = place.submit(steps=20, report_to="mlflow,tensorboard")
            place.wait_for_state(job, "succeeded")
            assert "20 of 20 steps were not forwarded to mlflow: " in place.said(job), worker.text
    series = stored(place, job)
    scalars, _ = tracked.in_tensorboard(board / place.job(job).runs["tensorboard"].run)
    assert scalars == series
    # No step waited for it.
    assert max(series["seconds"].values()) < 5


@pytest.mark.soak
@pytest.mark.skipif(not SOAKING, reason="another server and worker; a tracker that fails is tested without them")
def test_a_server_that_dies_in_the_middle_costs_its_points_and_no_secret_is_said(
    place: Workplace, tmp_path: Path
) -> None:
    port = processes.free_port()
    where = {"MLFLOW_TRACKING_URI": f"http://me:{SECRET}@127.0.0.1:{port}", "MLFLOW_TRACKING_PASSWORD": SECRET}
    with place.worker(forks=True, **where) as worker:
        wait_until(lambda: any(each.state == "idle" for each in place.workers()), lambda: worker.text)
        with tracked.mlflow_server(tmp_path / "server", port):
            job = place.submit(report_to="mlflow", every_steps=1000)
            wait_until(
                lambda: any(run.step > 0 for run in place.job(job).runs.values()),
                lambda: f"{worker.text}{place.said(job)}",
            )
        step = place.job(job).runs["mlflow"].step
        place.wait_for_step(job, step + 200)
        began = time.monotonic()
        place.client.jobs.cancel(job)
        place.wait_for_state(job, "cancelled")
        assert time.monotonic() - began < 60
        said = place.said(job)
        missing, steps = map(int, re.findall(r"(\d+) of (\d+) steps were not forwarded to mlflow: MlflowExc", said)[-1])
        assert 0 < missing < steps
        assert SECRET not in said + worker.text
        wait_until(lambda: any(each.state == "idle" for each in place.workers()), lambda: worker.text)
