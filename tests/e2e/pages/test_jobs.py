"""Jobs, as a browser shows them while they change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from support.adapters import base_registration
from support.browsing import WIDTHS, Reader, overflows, violations
from support.people import submit, training
from support.registries import World
from support.working import Held, line, progress

from registry.principal import Role
from sdk.schemas.advice import Advice
from sdk.schemas.jobs import JobView

#: How soon everybody has seen what happened, in milliseconds; on a busy machine it may take longer than a second.
SOON_MS = 8_000


class Scene:
    """A registry with jobs of every state, and a worker that does what a test says."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world, self.folder = world, folder
        rows = folder / "rows.jsonl"
        rows.write_text('{"prompt": "a", "completion": "b"}\n')
        world.admin.bases.register(base_registration())
        self.data = world.writer.datasets.add(rows).digest

    def submit(self, name: str) -> str:
        """Submit a training; return its job's id."""
        return submit(self.world.writer, training(name, self.data)).id

    def hold(self) -> Held:
        """Let a worker take the next job."""
        return Held.claim(self.world.worker, self.folder, name="gpu-7")

    def view(self, job: str) -> JobView:
        """A job as it is now."""
        return self.world.writer.jobs.view(job)


@pytest.fixture(scope="module")
def scene(seen: World, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    scene = Scene(seen, tmp_path_factory.mktemp("jobs"))
    scene.submit("code-review")
    scene.hold().complete()
    scene.submit("team/docs")
    failed = scene.hold()
    failed.advise(
        Advice(rule="diverging", message="the loss rose from 1.2 to 4.7; try a lower rate", changes={"lr": 1e-4})
    )
    failed.fail("data", "row 17 has no completion: add one, or leave the row out")
    scene.submit("code-review")
    scene.world.writer.jobs.cancel(scene.submit("stopped"))
    held = scene.hold()
    held.report(
        progress("load", 3, total=3),
        line("reading rows"),
        progress(step=40, total=120, loss=1.532, tokens_per_s=5120.0, eta_s=230.0),
    )
    held.checkpoint(20, 120)
    for name in ("team/docs", "sql"):
        scene.submit(name)
    return scene


def row(page: Page, job: str) -> object:
    return page.locator(f"#job-{job}")


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_pages_of_jobs_fit_and_are_accessible(
    reading: Callable[..., Reader], scene: Scene, pictures: Path, width: int, dark: bool
) -> None:
    reader = reading(Role.WRITER, width=width, dark=dark, to="/ui/jobs")
    shown = {"jobs": "/ui/jobs", "workers": "/ui/workers", "sweeps": "/ui/sweeps"}
    for view in scene.world.writer.jobs(limit=50):
        shown.setdefault(f"job-{view.state}", f"/ui/jobs/{view.id}")
    for name, path in shown.items():
        reader.page.goto(path)
        expect(reader.page.locator("[data-live-state]")).to_have_attribute(
            "data-is", "live" if "data-live=" in reader.page.content() else "polls"
        )
        assert not overflows(reader.page), name
        reader.page.screenshot(path=pictures / f"{name}-{width}-{'dark' if dark else 'light'}.png", full_page=True)
        if width == 375 or dark:
            assert violations(reader.page) == [], name
