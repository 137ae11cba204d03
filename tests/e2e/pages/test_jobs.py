"""Jobs, as a browser shows them while they change."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from support.adapters import base_registration
from support.browsing import Reader
from support.people import submit, training
from support.registries import World
from support.waiting import wait_until
from support.working import Held, line, progress

from registry.principal import SYSTEM, Role
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
        #: The job that its worker holds.
        self.held: Held
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
    scene.held = held = scene.hold()
    held.report(
        progress("load", 3, total=3),
        line("reading rows"),
        progress(step=40, total=120, loss=1.532, tokens_per_s=5120.0, eta_s=230.0),
    )
    held.checkpoint(20, 120)
    for name in ("team/docs", "sql"):
        scene.submit(name)
    return scene


def test_pages_of_jobs_fit_and_are_accessible(reading: Callable[..., Reader], scene: Scene, pictures: Path) -> None:
    reader = reading(Role.WRITER, to="/ui/jobs")
    shown = {"jobs": "/ui/jobs", "workers": "/ui/workers", "sweeps": "/ui/sweeps"}
    for view in scene.world.writer.jobs(limit=50):
        shown.setdefault(f"job-{view.state}", f"/ui/jobs/{view.id}")
    for name, path in shown.items():
        reader.page.goto(path)
        expect(reader.page.locator("[data-live-state]")).to_have_attribute(
            "data-is", "live" if "data-live=" in reader.page.content() else "polls"
        )
        reader.hold(pictures, name)


def stop_looking(page: Page, *, hidden: bool) -> None:
    """Do what a browser does when another tab comes before a page, or it comes back."""
    page.evaluate(
        """(hidden) => {
            Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
            document.dispatchEvent(new Event("visibilitychange"));
        }""",
        hidden,
    )


def live(page: Page) -> None:
    expect(page.locator("[data-live-state]")).to_have_attribute("data-is", "live", timeout=SOON_MS)


def test_list_follows_jobs_and_keeps_the_focus(reading: Callable[..., Reader], scene: Scene) -> None:
    page = reading(to="/ui/jobs").page
    live(page)
    (running,) = scene.world.writer.jobs(state="running")
    link = page.locator(f"#job-{running.id} a").first
    link.focus()
    submitted = scene.submit("brand-new")
    # New ones come first.
    expect(page.locator("table.jobs tbody tr").first).to_have_id(f"job-{submitted}", timeout=SOON_MS)
    scene.held.report(progress(step=77, total=120))
    expect(page.locator(f"#job-{running.id}")).to_contain_text("77/120 steps", timeout=SOON_MS)
    expect(link).to_be_focused()
    # The time is the reader's, as in what was loaded with the page.
    expect(page.locator(f"#job-{submitted} time")).not_to_contain_text("UTC")
    scene.world.writer.jobs.cancel(submitted)
    expect(page.locator(f"#job-{submitted} .state")).to_have_text("cancelled", timeout=SOON_MS)


def test_filtered_list_lets_go_of_jobs_but_not_under_the_focus(reading: Callable[..., Reader], scene: Scene) -> None:
    first, second = scene.submit("one"), scene.submit("two")
    page = reading(to="/ui/jobs?state=queued").page
    live(page)
    page.locator(f"#job-{first} a").first.focus()
    for job in (first, second):
        scene.world.writer.jobs.cancel(job)
    expect(page.locator(f"#job-{second}")).to_have_count(0, timeout=SOON_MS)
    expect(page.locator(f"#job-{first} .state")).to_have_text("cancelled", timeout=SOON_MS)
    expect(page.locator(f"#job-{first} a").first).to_be_focused()
    page.get_by_label("State").focus()
    expect(page.locator(f"#job-{first}")).to_have_count(0)


def test_page_of_a_job_follows_it_under_an_open_menu_and_cancels_it(
    reading: Callable[..., Reader], scene: Scene
) -> None:
    reader = reading(Role.WRITER, to=f"/ui/jobs/{scene.held.job}")
    page = reader.page
    live(page)
    page.get_by_text("Cancel…").click()
    button = page.get_by_role("button", name="Cancel the job")
    button.focus()
    scene.held.report(line("a line of the log <b>of a tenant</b>"), progress(step=99, total=120))
    expect(page.locator("#log")).to_contain_text("a line of the log <b>of a tenant</b>", timeout=SOON_MS)
    expect(page.locator("#now")).to_contain_text("99/120", timeout=SOON_MS)
    expect(button).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_text("It has been asked to stop.")).to_be_visible()
    assert scene.view(scene.held.job).cancel_requested


def test_hidden_page_has_no_stream_and_comes_back_with_what_it_missed(
    reading: Callable[..., Reader], scene: Scene
) -> None:
    watchers = scene.world.services.watchers
    wait_until(lambda: watchers.count == 0, "a page of another test has a stream")
    page = reading(to="/ui/jobs").page
    live(page)
    wait_until(lambda: watchers.count == 1, "it has no stream")
    stop_looking(page, hidden=True)
    wait_until(lambda: watchers.count == 0, "a page that nobody sees has a stream")
    missed = scene.submit("missed")
    expect(page.locator(f"#job-{missed}")).to_have_count(0)
    stop_looking(page, hidden=False)
    expect(page.locator(f"#job-{missed}")).to_be_visible(timeout=SOON_MS)
    live(page)
    # One that begins in the background asks for none, either.
    page.add_init_script('Object.defineProperty(document, "hidden", { value: true, configurable: true })')
    page.reload()
    expect(page.locator("[data-live-state]")).to_contain_text("As of")
    wait_until(lambda: watchers.count == 0, "a page that nobody sees has a stream")


def test_seven_pages_of_one_reader_work(reading: Callable[..., Reader], scene: Scene) -> None:
    reader = reading(to="/ui/jobs")
    tabs = [reader.page, *(reader.context.new_page() for _ in range(6))]
    for tab in tabs[1:]:
        tab.goto("/ui/jobs")
    ways = []
    for tab in tabs:
        expect(tab.locator("[data-live-state]")).to_have_attribute("data-is", re.compile("live|polls"), timeout=SOON_MS)
        ways.append(tab.locator("[data-live-state]").get_attribute("data-is"))
    # Three agree on a stream each, or a few more if one answers late; a browser has six connections.
    assert 3 <= ways.count("live") <= 5
    submitted = scene.submit("for-all")
    for tab in tabs:
        expect(tab.locator(f"#job-{submitted}")).to_be_visible(timeout=30_000)


def test_page_says_so_when_the_session_has_ended(reading: Callable[..., Reader], scene: Scene) -> None:
    reader = reading(to="/ui/jobs")
    live(reader.page)
    for token in scene.world.services.tokens.list(who=SYSTEM):
        if token.grants[0].role == "reader":
            scene.world.services.tokens.revoke(token.id, who=SYSTEM)
    expect(reader.page.get_by_label("Token")).to_be_visible(timeout=SOON_MS)
    expect(reader.page.locator("table.jobs")).to_have_count(0)


def test_jobs_need_no_script(reading: Callable[..., Reader], scene: Scene) -> None:
    waiting = scene.submit("by-hand")
    page = reading(Role.WRITER, to="/ui/jobs", script=False).page
    page.get_by_label("State").select_option("queued")
    page.get_by_label("Adapter").fill("by-hand")
    page.get_by_role("button", name="Show").click()
    page.get_by_role("link", name=waiting).click()
    page.get_by_text("Cancel…").click()
    page.get_by_role("button", name="Cancel the job").click()
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("link", name=waiting)).to_be_visible()
    assert scene.view(waiting).state == "cancelled"
