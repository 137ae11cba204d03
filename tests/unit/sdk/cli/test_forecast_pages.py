"""What people see of forecasts: of a job, and of past trainings in a plan."""

from __future__ import annotations

from typing import Any

import pytest
from support.job_views import job_view

from sdk.cli.commands.jobs import show
from sdk.cli.commands.plan import learnt_of, print_plan
from sdk.lora.planning.blueprint import blueprint_of
from sdk.lora.planning.job_forecasts import PlannedTraining
from sdk.lora.planning.plan import plan_of
from sdk.lora.planning.recommending import Asked
from sdk.lora.planning.tables import LLAMA_2_7B
from sdk.schemas.planning import DeviceForecasts, JobForecast, JobPeak
from sdk.schemas.training import TrainingSpec

GB = 10**9
H100 = DeviceForecasts(device="H100", jobs=12, ratio=0.94, spread=0.031, parameter_tokens_per_s=2e13)


def facts(**known: Any) -> dict[str, list[str]]:
    job = job_view(**known)
    found: dict[str, list[str]] = {}
    for name, value in show._facts(job):
        found.setdefault(name, []).append(value)
    return found


def test_a_job_shows_its_forecast_by_its_largest_parts() -> None:
    said = facts(forecast=PlannedTraining(LLAMA_2_7B, {}, TrainingSpec(method="lora")).forecast())["forecast"]
    assert len(said) == 2
    assert said[0].startswith("16.2 GB with a GPU: weights 13.5 GB, activations 1.2 GB, logits 805.2 MB; for 4 × 1024")
    assert " without one: weights 13.5 GB" in said[1]


def test_where_nothing_is_forecast_it_says_why() -> None:
    unknown = "the base's config says no vocab_size"
    assert facts(forecast=JobForecast(unknown=unknown))["forecast"] == [f"none: {unknown}"]
    assert "forecast" not in facts()


def test_what_it_took_stands_beside_what_is_usual_there() -> None:
    peak = JobPeak(device="H100", forecast_bytes=10 * GB, measured_bytes=9 * GB)
    assert facts(peak=peak)["peak"] == ["9.0 GB of memory, 90 % of the 10.0 GB that its worker forecast on H100"]
    assert "usually" not in facts(peak=peak)
    usual = facts(peak=peak.model_copy(update={"learnt": H100}))["usually"]
    assert usual == ["94 ± 3 % there, by 12 trainings"]


def test_a_plan_says_what_past_trainings_mean_for_it(capsys: pytest.CaptureFixture[str]) -> None:
    plan = plan_of(blueprint_of(LLAMA_2_7B), Asked())
    assert learnt_of(H100, plan) == (
        "12 trainings on H100 took 94 ± 3 % of their forecasts; at their speed, a million tokens take 0.094 h of it"
    )
    slow = H100.model_copy(update={"parameter_tokens_per_s": None})
    assert learnt_of(slow, plan) == "12 trainings on H100 took 94 ± 3 % of their forecasts"
    print_plan(plan.model_copy(update={"learnt": [H100.model_copy(update={"device": "a\x1b[31m card"})]}))
    said = capsys.readouterr().out
    assert "94 ± 3 %" in said
    assert "\x1b" not in said
    assert max(map(len, said.splitlines())) <= 80
