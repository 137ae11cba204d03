"""A browser for tests of pages: Debian's chromium, by Playwright; and what must be true of each page that it shows.

The one without windows, `chromium-headless-shell`, is the same program in what tests see, and takes a third of the processor's time for
each page; where it isn't installed, the one with windows does it.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

_AXE = Path(__file__).parent / "axe" / "axe.min.js"
_ARGS = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run", "--disable-component-update",
    "--disable-sync", "--disable-quic",
]  # fmt: skip
#: How long a page may take, in milliseconds: other tests run beside it.
_PATIENCE_MS = 60_000
#: Widths at which pages are looked at: a telephone, and a screen.
PHONE, SCREEN = 375, 1440
#: How each page is looked at, as width and whether it is dark. All share one style, of which the catalogue is looked at in all four ways.
LOOKS = ((PHONE, True), (SCREEN, False))
ALL_LOOKS = (*LOOKS, (PHONE, False), (SCREEN, True))


@contextmanager
def browser() -> Iterator[Browser]:
    """Start the browser; tests that need it are skipped, by name, where there is none."""
    chromium = shutil.which("chromium-headless-shell") or shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no chromium; install Debian's: apt-get install chromium-headless-shell")
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=_PATIENCE_MS)
    with sync_playwright() as play:
        started = play.chromium.launch(executable_path=chromium, args=_ARGS)
        try:
            yield started
        finally:
            started.close()


class Reader:
    """Somebody who reads pages of one registry in a context of their own; `faults` are what the browser complained about."""

    def __init__(
        self, started: Browser, url: str, *, width: int = 1440, dark: bool = False, script: bool = True
    ) -> None:
        self.url = url
        self.context = started.new_context(
            base_url=url,
            viewport={"width": width, "height": 900},
            color_scheme="dark" if dark else "light",
            java_script_enabled=script,
            reduced_motion="reduce",
        )
        self.context.set_default_timeout(_PATIENCE_MS)
        self.page: Page = self.context.new_page()
        self.faults: list[str] = []
        self.page.on(
            "console",
            lambda message: self.faults.append(message.text) if message.type in {"error", "warning"} else None,
        )
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))

    def enter(self, token: str, to: str) -> Page:
        """Begin a session without showing the form, which would be loaded for each test, and go to a page."""
        answer = self.context.request.post(
            "/ui/sign-in", form={"token": token}, headers={"Origin": self.url}, max_redirects=0
        )
        assert answer.status == 303, answer.text()
        self.page.goto(to)
        return self.page

    def sign_in(self, token: str) -> Page:
        """Sign in by the form."""
        self.page.goto("/ui/sign-in")
        self.page.fill("input[name=token]", token)
        self.page.click("button:text('Sign in')")
        return self.page

    def hold(self, pictures: Path, name: str, looks: Sequence[tuple[int, bool]] = LOOKS) -> None:
        """Leave a picture of the page in each look, and hold that it fits its window there and is accessible."""
        hold(self.page, pictures, name, looks)

    def close(self) -> None:
        """End the context, unless the browser complained."""
        self.context.close()
        assert not self.faults, self.faults


def hold(page: Page, pictures: Path, name: str, looks: Sequence[tuple[int, bool]] = LOOKS) -> None:
    """Leave a picture of a page in each look, and hold that it fits its window there and is accessible.

    The page isn't loaded again: a window is resized and changes its colours under a reader, too.
    """
    for width, dark in looks:
        scheme: Literal["dark", "light"] = "dark" if dark else "light"
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme=scheme)
        page.screenshot(path=pictures / f"{name}-{width}-{scheme}.png", full_page=True)
        assert not overflows(page), (name, width, scheme)
        assert violations(page) == [], (name, width, scheme)


def violations(page: Page) -> list[str]:
    """What axe finds in a page as it is now. It comes as a debugger's expression, to which the page's CSP does not apply."""
    if not page.evaluate("() => 'axe' in window"):
        page.evaluate(f"() => {{ {_AXE.read_text()}\n }}")
    found = page.evaluate(
        "async () => (await axe.run()).violations.map(v => v.id + ': ' + v.nodes.map(n => n.html).join(' '))"
    )
    return list(found)


def overflows(page: Page) -> bool:
    """Whether a page is wider than its window."""
    return bool(page.evaluate("() => document.documentElement.scrollWidth > document.documentElement.clientWidth"))
