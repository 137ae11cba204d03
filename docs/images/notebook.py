"""Take the picture of docs/python.md, or of docs/tutorial.md: python docs/images/notebook.py FOLDER [OUTPUT [tutorial]]

FOLDER is a registry with something to see, such as the one of `examples/docstrings`: cells are run over a copy of it in a
kernel, and Debian's chromium shows what each of them shows, light and dark beside each other. Nothing in the folder changes.
For the tutorial it is the registry in which its training ran.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image
from playwright.sync_api import sync_playwright

HERE = Path(__file__).resolve().parent
MOST_BYTES = 120_000
CONNECT = "import os, sdk\nsdk.connect(os.environ['ADAPTERCTL_URL'])\nnames = sdk.adapters()"
CELLS = (
    "found = sdk.search(sort='created')[:4]\nfound",
    "found[0]",
    "sdk.diff(found[0].ref, found[1].ref, weights=False)",
    "sdk.jobs()[0]",
)
#: Cells of docs/tutorial.ipynb, about the training that is there.
TUTORIAL = (
    "sdk.plot('docstrings@v1')",
    "sdk.compare(['base:SmolLM2-135M-Instruct', 'docstrings@v1'])",
)
#: As the themes of notebooks are.
THEMES = {"light": ("#ffffff", "#212121"), "dark": ("#111111", "#e0e0e0")}


def main(folder: Path, output: Path = HERE / "notebook.webp", cells: tuple[str, ...] = CELLS) -> None:
    """Run the cells over a copy of a registry, and take the picture."""
    with tempfile.TemporaryDirectory() as place, _over_a_copy(Path(place), folder):
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in (CONNECT, *cells)])
        NotebookClient(notebook, kernel_name="python3", timeout=300, startup_timeout=300).execute()
    shown = [f"<pre>{escape(cell.source)}</pre>{_markup(cell.outputs[-1]['data'])}" for cell in notebook.cells[1:]]
    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        pictures = [_taken(chromium, "".join(shown), *colours) for colours in THEMES.values()]
        chromium.close()
    whole = Image.new("RGB", (sum(one.width for one in pictures), max(one.height for one in pictures)))
    left = 0
    for one in pictures:
        whole.paste(one, (left, 0))
        left += one.width
    whole.save(output, "WEBP", quality=60, method=6)
    assert output.stat().st_size <= MOST_BYTES, output.stat().st_size


def _markup(data: dict[str, str]) -> str:
    return data.get("text/html") or data["image/svg+xml"]


def _taken(chromium: object, body: str, background: str, colour: str) -> Image.Image:
    page = chromium.new_page(viewport={"width": 900, "height": 900})  # type: ignore[attr-defined]
    page.set_content(
        f"<body style='margin:16px;background:{background};color:{colour};font:13px system-ui,sans-serif'>"
        f"<style>pre{{opacity:.8;margin:14px 0 6px}}</style>{body}</body>"
    )
    return Image.open(io.BytesIO(page.screenshot(full_page=True)))


@contextmanager
def _over_a_copy(place: Path, folder: Path) -> Iterator[None]:
    """Copy the registry, and let kernels that are started meanwhile use the copy, and folders of their own."""
    shutil.copytree(folder, place / "registry")
    ours = {"ADAPTERCTL_URL": f"local:{place / 'registry'}", "HOME": str(place), "IPYTHONDIR": str(place)}
    ours |= {"JUPYTER_RUNTIME_DIR": str(place), "PYTHONPATH": str(HERE.parents[1])}
    before = dict(os.environ)
    os.environ |= ours
    try:
        yield
    finally:
        os.environ.clear()
        os.environ |= before


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]), *([TUTORIAL] if "tutorial" in sys.argv[3:] else []))
