"""Sweeps, as a browser shows them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from contract.sweeps.helpers import held_out_rows, result
from playwright.sync_api import expect
from support import calls
from support.adapters import SPEC, base_registration, use_of
from support.browsing import Reader
from support.people import new_adapter
from support.registries import World

from registry.principal import Role
from sdk.api import sweeps
from sdk.schemas.job_requests import BaseChoice, TrainingRequest
from sdk.schemas.sweep_axes import Values
from sdk.schemas.sweeps import SweepRequest, SweepSubmission


@pytest.fixture(scope="module")
def sweep(seen: World, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A sweep over the rank, two members of which have ended."""
    folder = tmp_path_factory.mktemp("sweeps")
    seen.admin.bases.register(base_registration())
    rows = folder / "rows.jsonl"
    rows.write_text('{"prompt": "a", "completion": "b"}\n')
    data, eval_data = (seen.writer.datasets.add(file).digest for file in (rows, held_out_rows(folder)))
    training = TrainingRequest(adapter="sql", base=BaseChoice(id="tiny"), data=data, eval_data=eval_data, spec=SPEC)
    request = SweepRequest(training=training, settings={"lr": Values(values=[1e-4, 2e-4, 4e-4])})
    begun = sweeps.submit(seen.writer.transport, SweepSubmission(request=request))
    for loss in (1.31, 1.24):
        held = calls.hold(seen.worker, name="gpu-7")
        said = {
            "dataset": use_of(data),
            "training": {**held.request.spec.recorded(), "total_steps": 30},
            "metrics": {"loss": 1.0, "eval_loss": loss, "train_s": 61.0},
        }
        version = calls.publication(seen.worker, new_adapter(folder), "sql", **said)
        calls.complete(seen.worker, held, version=version, member=result(loss))
    return begun.id


def test_pages_of_sweeps_fit_and_are_accessible(reading: Callable[..., Reader], sweep: str, pictures: Path) -> None:
    reader = reading(Role.WRITER, to="/ui/sweeps")
    expect(reader.page.get_by_role("link", name=sweep)).to_be_visible()
    reader.hold(pictures, "sweeps")
    reader.page.get_by_role("link", name=sweep).click()
    expect(reader.page.locator("#now")).to_contain_text("2 of 3 members have ended")
    expect(reader.page.locator("svg.sweep")).to_be_visible()
    expect(reader.page.locator("#setting-2")).to_contain_text("1.24")
    reader.hold(pictures, "sweep")


def test_sweep_is_paused_goes_on_and_is_cancelled(reading: Callable[..., Reader], sweep: str) -> None:
    assert "Pause" not in reading(to=f"/ui/sweeps/{sweep}").page.content()
    page = reading(Role.WRITER, to=f"/ui/sweeps/{sweep}").page
    page.get_by_role("button", name="Pause").click()
    expect(page.locator(".lead")).to_contain_text("paused")
    page.get_by_role("button", name="Let it go on").click()
    expect(page.locator(".lead")).to_contain_text("running")
    page.get_by_text("Cancel…").click()
    page.get_by_role("button", name="Cancel the sweep").click()
    expect(page.locator(".lead")).to_contain_text("cancelled")
    expect(page.get_by_text("Cancel…")).to_have_count(0)
