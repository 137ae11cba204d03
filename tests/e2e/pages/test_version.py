"""The page of a version, and curves, as a browser shows them."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from support.browsing import Reader
from support.registries import World
from support.seeded_curves import copied, measured, sent
from support.seeded_versions import BASE, Maker
from support.waiting import wait_until


@pytest.fixture(scope="module", autouse=True)
def made(seen: World, tmp_path_factory: pytest.TempPathFactory) -> Maker:
    made = Maker(seen, tmp_path_factory.mktemp("made"))
    first = made.trained("code-review")
    made.scored(first.ref, loss=1.42, rouge_l=0.61)
    made.signed(first)
    seen.admin.set_alias("code-review", "production", 1)
    return made


def drawn(page: Page) -> Page:
    expect(page.locator("figure[data-drawn-ms]")).to_be_visible()
    return page


def test_version_fits_and_is_accessible(reading: Callable[..., Reader], pictures: Path) -> None:
    reader = reading(to="/ui/adapters/code-review/v1")
    drawn(reader.page)
    reader.hold(pictures, "version")


def test_version_needs_no_script(reading: Callable[..., Reader]) -> None:
    page = reading(script=False, to="/ui/adapters/code-review/v1").page
    picture = page.get_by_role("img", name=re.compile("Loss, learning rate"))
    expect(picture).to_be_visible()
    assert picture.evaluate("image => image.naturalWidth") > 500
    page.get_by_role("link", name="Numbers as a table").first.click()
    expect(page.get_by_role("heading", name="learning rate")).to_be_visible()


def test_curves_are_read_by_keyboard_alone(reading: Callable[..., Reader]) -> None:
    page = drawn(reading(to="/ui/adapters/code-review/v1").page)
    values = page.locator("figure output")
    page.get_by_role("button", name="By time").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Home")
    expect(values).to_contain_text("step 1 · loss 3.")
    page.keyboard.press("End")
    expect(values).to_contain_text("held-out loss 1.49 at step 600")
    page.keyboard.press("ArrowLeft")
    expect(values).to_contain_text("step 598")
    page.get_by_role("button", name="Log scale").focus()
    page.keyboard.press("Space")
    expect(page.get_by_text("loss, nats per token, logarithmic")).to_be_visible()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="By time")).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_role("group", name="loss, nats per token by seconds")).to_be_visible()


def test_curves_take_the_colours_of_another_scheme(reading: Callable[..., Reader]) -> None:
    page = drawn(reading(to="/ui/adapters/code-review/v1").page)
    seen = 'document.querySelector("figure canvas").toDataURL()'
    light = page.evaluate(seen)
    page.emulate_media(color_scheme="dark")
    wait_until(lambda: page.evaluate(seen) != light)
    dark = page.evaluate(seen)
    page.reload()
    drawn(page)
    assert page.evaluate(seen) == dark


def test_hundred_curves_of_ten_thousand_points_are_drawn_in_a_second(
    reading: Callable[..., Reader], seen: World, made: Maker, pictures: Path
) -> None:
    first = sent(seen, made.data, "long", measured(10_000, looks=20), base=BASE)
    jobs = ",".join([first, *copied(seen, "many", first, 99)])
    page = drawn(reading(to="/ui/adapters/code-review/v1").page)
    took: list[float] = []
    shown_ms: list[float] = []
    for _ in range(3):
        began = time.process_time()
        page.evaluate(
            """jobs => {
                const figure = document.querySelector("figure[data-curves]");
                delete figure.dataset.drawnMs;
                figure.curves.text = undefined;
                figure.dataset.curves = `/ui/series?jobs=${jobs}`;
                figure.dispatchEvent(new CustomEvent("curves:refresh"));
            }""",
            jobs,
        )
        drawn(page)
        expect(page.locator("figure .curve-name")).to_have_count(100)
        took.append(time.process_time() - began)
        shown_ms.append(float(page.locator("figure").first.get_attribute("data-drawn-ms") or "nan"))
    page.get_by_role("button", name=jobs[:12]).focus()
    page.screenshot(path=pictures / "curves-100.png")
    # The server's work, in this process, and the browser's drawing; others at work don't count.
    assert min(took) + min(shown_ms) / 1000 < 1, (took, shown_ms)
