"""Curves that are reduced for a picture: of all points, and none of them only of some."""

from __future__ import annotations

import numpy as np
import pytest
from support.points import points_of
from support.seeded_curves import measured

from registry.series.blocks import Points
from registry.series.drawing import CurveName, Drawing, DrawnLine, DrawnTraining, drawing_of
from sdk.schemas.series import Point
from sdk.schemas.version_records import TrainingRecord


def training(points: list[Point], name: str = "a", **record: object) -> DrawnTraining:
    return DrawnTraining(CurveName(name=name), Points.of(points).cells(), TrainingRecord.read(record))


def line_of(drawing: Drawing, key: str, curve: int = 0) -> DrawnLine:
    (panel,) = (panel for panel in drawing.panels if panel.key == key)
    (line,) = (line for line in panel.lines if line.curve == curve)
    return line


def values(points: list[Point], key: str) -> np.ndarray:
    return np.array([point.values[key] for point in points if key in point.values], "float32").astype(float)


@pytest.mark.parametrize("by", ["step", "seconds"])
@pytest.mark.parametrize("steps", [1, 18, 159, 160, 401, 10_000])
def test_band_and_mean_are_of_all_points(steps: int, by: str) -> None:
    points = measured(steps)
    found = drawing_of([training(points)], by, [])  # type: ignore[arg-type]
    line, losses = line_of(found, "loss"), values(points, "loss")
    spans = list(line.spans(found.at)) or [(place, mean, mean) for place, mean in line.means(found.at)]
    assert min(low for _, low, _ in spans) == pytest.approx(losses.min(), rel=1e-4)
    assert max(high for _, _, high in spans) == pytest.approx(losses.max(), rel=1e-4)
    means = [mean for _, mean in line.means(found.at)]
    assert line.steps_a_mean * len(means) >= steps
    assert min(means) >= losses.min() * 0.9999
    assert len(spans) <= 400
    assert list(found.at) == sorted(found.at)
    assert found.curves[0].last_step == steps


def test_means_weigh_each_step_alike() -> None:
    points = points_of(range(1, 4_001))
    found = drawing_of([training(points)], "step", [])
    line = line_of(found, "loss")
    # 400 columns of ten steps, five of which are a mean.
    expected = values(points, "loss").reshape(-1, 50).mean(axis=1)
    assert line.mean == pytest.approx(expected.tolist(), rel=1e-4)
    assert line.steps_a_mean == 50


def test_short_training_among_long_ones_is_not_averaged_away() -> None:
    found = drawing_of([training(measured(5_000)), training(measured(1_000), "b")], "step", [])
    long, short = line_of(found, "loss", 0), line_of(found, "loss", 1)
    assert len(long.mean) == 80
    assert len(short.mean) == 80
    assert short.low


def test_scores_of_held_out_rows_stay_at_their_steps() -> None:
    points = measured(3_000, looks=6)
    (panel, *_) = drawing_of([training(points)], "step", []).panels
    assert panel.looks[0].step == [500, 1000, 1500, 2000, 2500, 3000]
    assert panel.looks[0].at == [500, 1000, 1500, 2000, 2500, 3000]


def test_best_look_is_that_of_the_record() -> None:
    points = measured(600)
    (seen,) = drawing_of([training(points)], "step", []).curves
    (kept,) = drawing_of([training(points, best_step=300)], "step", []).curves
    assert (seen.best_step, seen.kept, kept.best_step, kept.best_at, kept.kept) == (500, False, 300, 300.0, True)


def test_seconds_are_added_up_over_all_steps() -> None:
    points = [Point(step=step, values={"loss": 1.0, "eval_loss": 2.0, "seconds": 0.5}) for step in range(1, 101)]
    found = drawing_of([training(points)], "seconds", [])
    assert found.panels[0].looks[0].at[-1] == pytest.approx(50.0)
    assert found.at[-1] == pytest.approx(50.0, abs=0.5)


def test_many_curves_have_few_columns_each() -> None:
    cells = training(measured(10_000)).cells
    found = drawing_of([DrawnTraining(CurveName(name=str(n)), cells, TrainingRecord()) for n in range(100)], "step", [])
    assert len(found.at) <= 80
    assert len(found.model_dump_json(exclude_defaults=True)) < 600_000
