"""The catalogue, as a browser shows it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect
from support.adapters import base_registration
from support.browsing import ALL_LOOKS, Reader
from support.people import new_adapter
from support.registries import World

from registry.principal import Role


@pytest.fixture(scope="module", autouse=True)
def adapters(seen: World, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    base = seen.admin.bases.register(base_registration())
    for name in ("code-review", "team/docs"):
        seen.writer.push(new_adapter(tmp_path_factory.mktemp("adapter")), name, base=base.id)
    return ["code-review", "team/docs"]


def test_catalogue_fits_and_is_accessible(reading: Callable[..., Reader], pictures: Path) -> None:
    reader = reading()
    expect(reader.page.get_by_role("link", name="team/docs")).to_be_visible()
    reader.hold(pictures, "catalogue", ALL_LOOKS)


@pytest.mark.parametrize("script", [True, False], ids=["script", "no-script"])
def test_who_signs_in_by_the_form_sees_the_catalogue(chromium: Browser, seen: World, script: bool) -> None:
    reader = Reader(chromium, seen.url, script=script)
    page = reader.sign_in(seen.token(Role.READER))
    expect(page.get_by_role("link", name="code-review", exact=True)).to_be_visible()
    reader.close()
