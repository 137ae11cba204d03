"""Take the pictures of docs/pages.md: python docs/images/pages.py FOLDER

FOLDER is a registry with something to see, such as the one of `examples/docstrings`: a copy of it is opened by
`adapterctl ui`, and Debian's chromium (`apt-get install chromium`) goes where a reader would go, by links. Nothing in the
folder changes.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

HERE = Path(__file__).resolve().parent
#: No picture is larger, in bytes.
MOST_BYTES = 120_000
#: A screen, and a telephone, in CSS pixels.
SCREEN, PHONE = 1240, 375
_PATIENCE_MS = 120_000
_ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+/ui/code\?code=\S+")


def main(folder: Path) -> None:
    """Open a copy of a registry, and take all pictures."""
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place, "registry")
        shutil.copytree(folder, copy)
        environment = os.environ | {"ADAPTERCTL_URL": f"local:{copy}", "PYTHONUNBUFFERED": "1"}
        command = [str(Path(sys.executable).parent / "adapterctl"), "ui", "--no-browser"]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as shown:
            assert shown.stdout is not None
            try:
                take(next(found[0] for line in shown.stdout if (found := _ADDRESS.search(line))))
            finally:
                shown.terminate()


def take(address: str) -> None:
    """Sign in by an address, and take the pictures."""
    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        context = chromium.new_context(viewport={"width": SCREEN, "height": 820}, reduced_motion="reduce")
        # Also on a machine that does other things.
        context.set_default_timeout(_PATIENCE_MS)
        page = context.new_page()
        page.goto(address)
        if (button := page.locator("button:text('Open the registry')")).count():
            button.click()
        page.wait_for_url("**/ui/adapters")
        save(page, "catalogue", high=330)
        follow(page, "table.adapters tr:has(td.production a) th a")
        adapter = page.url
        save(page, "adapter", high=1080)
        follow(page, "main a.ref:near(.tag.alias)")
        page.wait_for_selector(".curve-plot")
        save(page, "version", high=1500)
        page.goto(adapter)
        follow(page, "a:text('Compare these'), a:text('Compare the first 10')")
        page.locator("summary:text('Choose others')").click()
        refs = page.locator("textarea[name=refs]")
        refs.fill("\n".join((refs.input_value().split())[-3:]))
        page.click("button.main:text-is('Compare')")
        page.click("button:text('Compare rows')")
        page.wait_for_selector("text=Scores")
        save(page, "compare", high=900)
        page.goto(adapter.partition("/ui/")[0] + "/ui/jobs")
        save(page, "jobs", high=520)
        page.set_viewport_size({"width": PHONE, "height": 700})
        save(page, "jobs-phone", high=700)
        page.set_viewport_size({"width": SCREEN, "height": 820})
        page.emulate_media(color_scheme="dark")
        follow(page, "tr:has-text('training'):has(.state-succeeded) td:nth-child(2) a")
        page.wait_for_selector(".curve-plot")
        save(page, "job-dark", high=1000)
        page.emulate_media(color_scheme="light")
        page.goto(adapter.partition("/ui/")[0] + "/ui/sweeps")
        if page.locator("main td a.ref").count():
            follow(page, "main td a.ref")
            page.wait_for_selector(".curve-plot")
            save(page, "sweep", high=1250)
        chromium.close()


def follow(page: Page, link: str) -> None:
    """Follow the first link that fits."""
    page.locator(link).first.click()
    page.wait_for_load_state("networkidle")


def save(page: Page, name: str, *, high: int) -> None:
    """Write the upper part of a page."""
    page.wait_for_timeout(400)
    image = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
    image = image.crop((0, 0, image.width, min(image.height, high)))
    path = HERE / f"page-{name}.webp"
    image.save(path, quality=82, method=6)
    size = path.stat().st_size
    sys.stdout.write(f"{path.name}: {image.width} by {image.height}, {size / 1000:.0f} kB\n")
    assert size <= MOST_BYTES, f"{path.name} has {size} bytes; cut it"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
