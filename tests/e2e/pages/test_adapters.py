"""Pages of adapters, as a browser shows them, and a promotion by the keyboard alone."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from contract.promotion.scene import Scene, floor
from playwright.sync_api import Page, expect
from support.adapters import base_registration
from support.browsing import PHONE, Reader, violations
from support.registries import World

from registry.principal import Role


@pytest.fixture(scope="module")
def scene(seen: World, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """An adapter of four versions with scores, aliases, a policy and a history."""
    seen.admin.bases.register(base_registration())
    scene = Scene(seen, tmp_path_factory.mktemp("scene"), "review")
    data = scene.rows()
    for number, loss in ((1, 0.75), (2, 0.7), (3, 0.62), (4, 0.58)):
        scene.publish(tags={"language": "python"}, description="Reviews diffs as the team does.")
        scene.score(number, data, loss)
    scene.policy("production", **floor(data))
    scene.move(2, "production", reason="the first that reads well")
    scene.move(3, "production", reason="beats v2 on the held-out rows")
    scene.move(4, "staging")
    return scene


def addresses(scene: Scene) -> dict[str, str]:
    name = scene.adapter()
    (production,) = (
        one for one in scene.services.aliases.list(adapter=name, who=scene.who("boss")) if one.alias == "production"
    )
    return {
        "adapter": f"/ui/adapters/{name}",
        "history": f"/ui/history?adapter={name}",
        "decision": f"/ui/decisions/{production.decision}",
        "promote": f"/ui/actions/promote?adapter={name}&number=4",
        "roll-back": f"/ui/actions/roll-back?adapter={name}&alias=production",
        "approve": f"/ui/actions/approve?adapter={name}&number=4",
        "archive": f"/ui/actions/archive?adapter={name}&number=1",
    }


def test_pages_of_an_adapter_fit_and_are_accessible(
    reading: Callable[..., Reader], scene: Scene, pictures: Path
) -> None:
    reader = reading(Role.ADMIN)
    for name, address in addresses(scene).items():
        reader.page.goto(address)
        expect(reader.page.get_by_role("heading", level=1)).to_be_visible()
        reader.hold(pictures, name)


def focus(page: Page, text: str) -> None:
    """Go on by the tabulator key until what has the focus says this."""
    passed = []
    for _ in range(120):
        page.keyboard.press("Tab")
        passed.append(page.evaluate("[document.activeElement.tagName, document.activeElement.textContent]"))
        if passed[-1][0] in ("A", "BUTTON") and text in passed[-1][1]:
            return
    raise AssertionError(f"nothing that says {text!r} gets the focus, but {passed}")


def test_promotion_needs_no_mouse(reading: Callable[..., Reader], scene: Scene) -> None:
    page = reading(Role.PROMOTER, to=f"/ui/adapters/{scene.adapter()}").page
    expect(page.get_by_role("heading", name=scene.adapter())).to_be_visible()
    focus(page, "Promote v1")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Which alias is to name it?")).to_be_visible()
    focus(page, "Check")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="production to v1: passed")).to_be_visible()
    assert scene.named("production") != 1
    focus(page, "Point production at v1")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_contain_text(f"{scene.adapter()}@production names {scene.adapter()}@v1")
    assert scene.named("production") == 1


def test_promotion_needs_no_script(reading: Callable[..., Reader], scene: Scene) -> None:
    page = reading(Role.WRITER, to=f"/ui/adapters/{scene.adapter()}", script=False).page
    page.get_by_role("link", name="Promote v2").click()
    page.get_by_label("Which alias is to name it?").fill("canary")
    page.get_by_role("button", name="Check").click()
    page.get_by_label("Reason").fill("to be looked at")
    page.get_by_role("button", name="Point canary at v2").click()
    expect(page.get_by_role("status")).to_contain_text("canary names")
    assert scene.named("canary") == 2


def test_filter_is_typed_and_what_is_wrong_stands_under_it(reading: Callable[..., Reader], scene: Scene) -> None:
    page = reading().page
    field = page.get_by_role("searchbox", name="Filter")
    field.fill("rank ~ 8")
    field.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("rank takes")
    field = page.get_by_role("searchbox", name="Filter")
    field.fill("tag[language] = python")
    field.press("Enter")
    expect(page.get_by_role("link", name=scene.adapter(), exact=True)).to_be_visible()
    assert page.get_by_role("link", name="code-review", exact=True).count() == 0


def test_rows_are_sorted_by_a_heading_and_what_has_no_value_stays_last(
    reading: Callable[..., Reader], scene: Scene
) -> None:
    scene.publish()
    page = reading(to=f"/ui/adapters/{scene.adapter()}").page
    rows = page.get_by_role("region", name="Versions").get_by_role("rowheader")
    expect(rows).to_have_text([re.compile(f"v{number}") for number in (5, 4, 3, 2, 1)])
    heading = page.get_by_role("region", name="Versions").get_by_role("columnheader").filter(has_text="loss on")
    for order, numbers in (("ascending", (4, 3, 2, 1, 5)), ("descending", (1, 2, 3, 4, 5))):
        heading.get_by_role("button").press("Enter")
        expect(heading).to_have_attribute("aria-sort", order)
        expect(rows).to_have_text([re.compile(f"v{number}") for number in numbers])
    assert violations(page) == []


#: From the right to the left, turned, of several code points, of no width, and with many marks on one letter.
ODD = "مرحبا \u202eevil\u202c \U0001f600\u200d\U0001f469 z\u200b\u200bw e\u0301\u0323 " + "\u0316\u0317\u0318" * 10


def test_texts_as_long_and_odd_as_they_may_be_stay_in_the_window(
    seen: World, scene: Scene, reading: Callable[..., Reader], pictures: Path
) -> None:
    odd = Scene(seen, scene.folder / "odd", "odd")
    name = "n" * 64
    for _ in range(2):
        odd.publish(name, tags={"lang": ODD, "w" * 60: "v" * 200}, description=ODD * 3 + "x" * 200)
    odd.move(1, "production", name, reason=ODD + "r" * 200)
    odd.move(2, "q" * 60, name, reason=ODD)
    page = f"/ui/adapters/{odd.adapter(name)}"
    reader = reading(Role.ADMIN, to=page, width=PHONE)
    for place, address in enumerate((page, f"{page}/v2", f"/ui/history?adapter={odd.adapter(name)}")):
        reader.page.goto(address)
        reader.hold(pictures, f"odd-{place}", [(PHONE, False)])
