"""Each tracker with its real library: what it holds is read with its own reader."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from support import tracked
from support.points import float32, points_of

from sdk.schemas.job_requests import SweepPlace
from sdk.schemas.series import Point
from sdk.schemas.trackers import TRACKERS, TrackerName
from workers.trackers.known import installed_trackers, tracker
from workers.trackers.tracker import Training

#: The quick tests run without it.
TENSORBOARD = pytest.mark.skipif(find_spec("tensorboard") is None, reason="tensorboard is not installed")

HOSTILE = "../..\"'><script>alert(1)</script>\n```\n$(id)"
TRAINING = Training(
    "0a1b2c",
    "team/reviews",
    {"lr": 0.1, "rank": 8, "use_dora": False, "base": HOSTILE, "targets": "q_proj," * 200, "data": "{{7*7}}"},
    SweepPlace(sweep="9b", number=2),
)
NAMES = ("loss", "eval_loss")
FIRST, AGAIN = points_of(range(1, 31), names=NAMES), points_of(range(21, 41), names=NAMES, seed=4)
#: What counts after steps 21 to 30 were replaced.
EXPECTED = {name: {point.step: float32(point.values[name]) for point in [*FIRST[:20], *AGAIN]} for name in NAMES}


def twice(name: TrackerName) -> str:
    """Forward the points of two attempts; return the run."""
    first = tracker(name)
    run = first.begin(TRAINING, None)
    assert not run.continues
    first.log(FIRST[:10], 1e9)
    first.log(FIRST[10:], 1e9 + 1)
    first.end(None)
    second = tracker(name)
    same = second.begin(TRAINING, run.id)
    assert (same.id, same.continues) == (run.id, True)
    second.log(AGAIN, 1e9 + 2)
    second.end("finished")
    return run.id


@TENSORBOARD
def test_tensorboard_shows_the_newest_of_each_step_with_parameters_and_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    run = twice("tensorboard")
    assert run == "team-reviews-sweep-9b-2-0a1b2c"
    scalars, texts = tracked.in_tensorboard(tmp_path / "board" / run)
    assert scalars == EXPECTED
    assert "finished" in texts["state"]
    # One block of code: nothing in it is read as Markdown.
    fence, written, end = texts["params"].partition("\n")[0], texts["params"][4:-4], texts["params"][-3:]
    assert (fence, end, written.count("```")) == ("```", "```", 0)
    assert json.loads(written)["lr"] == "0.1"
    assert [path.name for path in tmp_path.iterdir()] == ["board"]


@TENSORBOARD
def test_tensorboard_gets_a_step_that_is_reported_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path))
    to = tracker("tensorboard")
    run = to.begin(TRAINING, None)
    to.log(FIRST, 1e9)
    to.log([Point(step=30, values={"loss": 0.5, "eval_loss": 2.0})], 1e9)
    to.end("killed")
    scalars, _ = tracked.in_tensorboard(tmp_path / run.id)
    assert (scalars["loss"][30], len(scalars["loss"])) == (0.5, 30)


@TENSORBOARD
def test_tensorboard_needs_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    with pytest.raises(RuntimeError, match="TENSORBOARD_LOGGING_DIR is not set for the worker"):
        tracker("tensorboard").begin(TRAINING, None)


@TENSORBOARD
def test_a_run_whose_folder_is_gone_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path))
    to = tracker("tensorboard")
    assert not to.begin(TRAINING, "elsewhere").continues
    to.end(None)


def test_wandb_keeps_both_values_of_a_replaced_step_over_a_step_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    assert twice("wandb") == "0a1b2c"
    files = sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns)
    rows, ended = [], []
    for file in files:
        records = tracked.in_wandb(file)
        for record in records:
            if record.WhichOneof("record_type") == "history":
                rows.append(
                    {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
                )
            elif record.WhichOneof("record_type") == "exit":
                ended.append(record.exit.exit_code)
        (begun,) = (record.run for record in records if record.WhichOneof("record_type") == "run")
        config = {item.key: json.loads(item.value_json) for item in begun.config.update}
        assert (begun.run_id, begun.display_name, begun.run_group, config["lr"], config["base"]) == (
            *("0a1b2c", "team-reviews-sweep-9b-2-0a1b2c", "sweep-9b"),
            *(0.1, HOSTILE),
        )
        over = {
            each.metric.glob_name or each.metric.name: each.metric.step_metric
            for each in records
            if each.WhichOneof("record_type") == "metric"
        }
        assert over["*"] == "step"
    assert ended == [255, 0]
    assert [row["step"] for row in rows] == [point.step for point in [*FIRST, *AGAIN]]
    assert {row["step"]: float32(row["loss"]) for row in rows} == EXPECTED["loss"]
    assert {row["step"]: float32(row["eval_loss"]) for row in rows} == EXPECTED["eval_loss"]


def test_trackio_stores_points_by_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trackio")
    from trackio import sqlite_storage

    monkeypatch.setattr(sqlite_storage, "TRACKIO_DIR", tmp_path)
    run = twice("trackio")
    rows = sqlite_storage.SQLiteStorage.get_logs("adapterctl", run)
    assert {row["step"]: float32(row["loss"]) for row in rows} == EXPECTED["loss"]
    config = sqlite_storage.SQLiteStorage.get_run_config("adapterctl", run)
    assert config is not None
    assert (config["lr"], config["base"]) == (0.1, HOSTILE)


def test_mlflow_finds_the_runs_of_a_sweep_by_a_tag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", tmp_path.as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    run = tracker("mlflow").begin(TRAINING, None)
    client = MlflowClient()
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    (found,) = client.search_runs(experiments, "tags.`adapterctl.sweep` = '9b'")
    assert (found.info.run_id, found.data.tags["adapterctl.member"]) == (run.id, "2")


def test_parameters_are_cut_to_a_bounded_length() -> None:
    from workers.trackers.tracker import shown

    assert (len(shown("x" * 501)), shown("x" * 500), shown(True)) == (500, "x" * 500, "True")


@pytest.mark.parametrize("adapter", ["team/reviews", "../../etc", "a" * 300, "..."])
def test_a_title_is_the_name_of_a_folder(adapter: str) -> None:
    title = Training("0a1b", adapter, {}).title
    assert Path(title).name == title
    assert len(title) < 200


def test_trackers_that_are_installed_are_announced() -> None:
    assert set(installed_trackers()) == {name for name in TRACKERS if find_spec(name) is not None}
