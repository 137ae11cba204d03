"""Versions side by side, and reports, which a browser opens from a disk without a network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect
from support.browsing import Reader, hold
from support.compared import scored
from support.registries import World
from support.trained_and_scored import Trainer

HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"> <!-- [a](http://e.invalid)"


@pytest.fixture(scope="module")
def refs(seen: World, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    trainer = Trainer(seen, tmp_path_factory.mktemp("trained"))
    found = [trainer.train(seed=seed, lr=1e-4 * seed) for seed in (1, 2, 3)]
    for at, ref in enumerate(found):
        rows = scored(48, loss=1.0 - 0.08 * at)
        hostile = [row.model_copy(update={"prediction": HOSTILE}) for row in rows]
        trainer.score(ref, hostile)
    seen.writer.versions.annotate(found[0], description=HOSTILE, tags={"language": HOSTILE})
    seen.writer.set_alias("sql", "production", 2)
    return found


@pytest.fixture
def offline(chromium: Browser) -> Iterator[Page]:
    """A window that can reach nothing, and may not complain."""
    context = chromium.new_context(offline=True, viewport={"width": 1440, "height": 900}, reduced_motion="reduce")
    page = context.new_page()
    faults: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: faults.append(message.text) if message.type in {"error", "warning"} else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    yield page
    context.close()
    assert faults == []
    # Reports themselves, and images that they hold.
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert [url for url in asked if url.startswith("file:") and not url.endswith(".html")] == []


def test_report_opens_from_a_disk_and_loads_nothing(
    seen: World, refs: list[str], offline: Page, pictures: Path, tmp_path: Path
) -> None:
    path = seen.writer.report(refs, rows=2).save(tmp_path / "report.html")
    offline.goto(path.as_uri())
    expect(offline.get_by_role("heading", level=1)).to_have_text(", ".join(refs))
    expect(offline.locator("figure.curves canvas").first).to_be_visible()
    expect(offline.get_by_role("row").filter(has_text="beats").first).to_be_visible()
    expect(offline.locator("pre").filter(has_text="owned").first).to_contain_text(HOSTILE)
    assert "owned" not in offline.title()
    hold(offline, pictures, "report")


def test_report_of_an_adapter_and_of_one_version_open_too(
    seen: World, refs: list[str], offline: Page, pictures: Path, tmp_path: Path
) -> None:
    for name, of in (("adapter", "sql"), ("version", refs[0])):
        path = seen.writer.report(of, rows=2).save(tmp_path / f"{name}.html")
        offline.goto(path.as_uri())
        offline.screenshot(path=pictures / f"report-{name}.png", full_page=True)
        assert "owned" not in offline.title()


def test_comparison_shows_verdicts_scores_and_curves(
    reading: Callable[..., Reader], refs: list[str], pictures: Path
) -> None:
    asked = f"/ui/compare?refs={refs[0]}&refs={refs[1]},{refs[2]}&refs=sql@production"
    reader = reading(to=asked)
    page = reader.page
    expect(page.locator("figure.curves canvas").first).to_be_visible()
    page.get_by_label("Compare with").select_option(refs[1])
    page.get_by_role("button", name="Compare rows").click()
    expect(page.get_by_role("row").filter(has_text="v2 beats v1 on loss")).to_be_visible()
    expect(page.locator("figure.curves canvas").first).to_be_visible()
    reader.hold(pictures, "compare")


def test_report_is_saved_from_the_page_without_script(
    reading: Callable[..., Reader], refs: list[str], tmp_path: Path
) -> None:
    page = reading(script=False).page
    page.goto("/ui/compare")
    page.get_by_label("Versions").fill(f"{refs[0]}\n{refs[1]}")
    page.get_by_role("button", name="Compare").click()
    page.get_by_label("Rows in it").fill("1")
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save a report").click()
    assert saved.value.suggested_filename == "sql-v1-sql-v2.html"
    saved.value.save_as(tmp_path / "saved.html")
    assert "1 row or sample" in (tmp_path / "saved.html").read_text()
