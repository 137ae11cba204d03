"""Every block of the pages is run: where its page is followed, by a test that names it, or its page says why it can't be.

Pages are followed as printed, in the folder that `adapterctl example` makes, by one reader with one registry. What stands for
SmolLM2 there is a tiny base in its place in the cache, only the first rows are learnt, and the versions that a page speaks of
beside the example's are made before.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from support import child_forks, processes
from support.blocks import PAGES, ROOT, Block, Reader, blocks_of, lines_of
from support.followed import Desk, save_base
from support.tiny import _make as tiny

from sdk.examples.base import NAME

#: Blocks that nothing here can run, by page; each says why in the page's source. A number may only fall.
NOT_RUN = {
    "README.md": 4,
    "docs/artifacts.md": 3,
    "docs/deploy.md": 4,
    "docs/exporting.md": 1,
    "docs/tutorial.md": 1,
    "docs/stack.md": 2,
    "docs/upgrading.md": 1,
}
#: Pages that are followed one after another in the folder of an example: what one has run, the next one doesn't run again.
FIRST = ["docs/quickstart.md", "docs/tutorial.md"]
PAGES_OF_FIRST = [
    "sdk/examples/docstrings/README.md",
    "README.md",
    "docs/training.md",
    "docs/search.md",
    "docs/jobs.md",
    "docs/data.md",
    "docs/artifacts.md",
    "docs/combining.md",
    "docs/merging.md",
    "docs/exporting.md",
    "docs/compatibility.md",
    "docs/planning.md",
    "docs/models.md",
    "docs/sweeps.md",
    "docs/evaluation.md",
]
#: The examples whose own page is followed in their folder.
EXAMPLES = {f"sdk/examples/{name}/README.md": name for name in ("labels", "preferences")}
FOLLOWED = [*FIRST, *PAGES_OF_FIRST, *EXAMPLES]
#: Rows of an example that are learnt here.
LEARNT_ROWS = 32
#: Pages that are followed in another folder than the example's.
ELSEWHERE = {"docs/sweeps.md": "tiny"}
#: What is trained for a shorter time here than on the page.
SHORTER = {"--max-steps 60 --eval-every 5": "--max-steps 4 --eval-every 2", "log[3]": "log[2]", "[1, 4, 16]": "[1, 4]"}
SHORTER_TRAININGS = re.compile(r"^(adapterctl train [\w-]+) (--base .*)(?<!--dry-run)$", re.DOTALL)
#: So few answers are written for an evaluation of held-out rows.
FEWER_ANSWERS = re.compile(r"^(adapterctl eval .*--data heldout\.jsonl)", re.DOTALL)

BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def test_every_block_is_run_or_says_why_not() -> None:
    left = [f"{block.page}: {block.text.splitlines()[0]}" for block in BLOCKS if block.is_followed]
    unknown = [line for line in left if line.split(":")[0] not in FOLLOWED]
    assert not unknown, "follow the page in FOLLOWED, or say why not above the block: <!-- not run: WHY -->"


def test_blocks_that_are_not_run_are_those_of_the_list() -> None:
    found: dict[str, int] = {}
    for block in BLOCKS:
        if block.not_run is not None:
            assert len(block.not_run.split()) >= 3, f"{block.page}: {block.not_run!a} is no reason"
            found[block.page] = found.get(block.page, 0) + 1
    assert found == NOT_RUN


def test_each_block_with_a_name_is_run_by_a_test_that_names_it() -> None:
    tests = {path: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}
    for block in BLOCKS:
        if block.name is not None:
            # A test may join the name of what several kinds of registry share: "sqlite-files".
            last = block.name.rpartition("-")[2]
            users = [text for text in tests.values() if block.page.removeprefix("docs/") in text and last in text]
            assert users, f"no test runs the block {block.name} of {block.page}"


@pytest.mark.parametrize(
    ("text", "commands"),
    [
        ("a b \\\n  c\n# none\nd", ["a b c", "d"]),
        ("a 'b\n\nc'\nd", ["a 'b\n\nc'", "d"]),
    ],
)
def test_commands_of_a_block(text: str, commands: list[str]) -> None:
    assert lines_of(text) == commands


def test_a_block_says_how_it_is_run() -> None:
    page = ROOT / "docs" / "quickstart.md"
    assert all(block.is_followed for block in blocks_of(page))
    assert [block.name for block in blocks_of(ROOT / "docs" / "serving.md")][:2] == ["ask", "serve"]


@dataclass
class Followed:
    """Who has followed the quickstart, and can follow other pages in its folder."""

    desk: Desk
    reader: Reader

    def follow(self, page: str) -> None:
        """Follow a page, in the folder of the example."""
        self.reader.folder = self.desk.folder.parent / ELSEWHERE[page] if page in ELSEWHERE else self.desk.folder
        for block in blocks_of(ROOT / page):
            if block.is_followed:
                # The page of an example is written with the name of its base.
                self.reader.follow(replace(block, text=block.text.replace("$base", NAME)))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home whose cache has what stands for the examples' base, with a runner that stays."""
    home = tmp_path_factory.mktemp("pages") / "home"
    save_base(home / ".cache" / "adapterctl" / "examples" / NAME)
    with child_forks.local_runner(home / ".adapterctl", environment(home)):
        yield home
    # The program that answers waits for the next question, if one was asked.
    assert processes.run("adapterctl", "down", env=environment(home)).returncode in (0, 3)
    runner = home / ".adapterctl" / "logs" / "runner.log"
    assert not runner.exists(), f"a command has started a runner: {runner.read_text()}"


def environment(home: Path) -> dict[str, str]:
    """The environment of a reader with this home."""
    path = f"{processes.BIN}{os.pathsep}{os.environ['PATH']}"
    return processes.environment(HOME=str(home), XDG_CACHE_HOME=str(home / ".cache"), PATH=path)


@pytest.fixture(scope="module")
def followed(home: Path) -> Followed:
    """Who has followed the quickstart."""
    reader = Reader(home, environment(home), after=_shorten, adapted=_shorter)
    for page in FIRST:
        for block in blocks_of(ROOT / page):
            if block.is_followed:
                reader.follow(block)
    desk = Desk(home, reader.folder)
    desk.furnish()
    tiny.make(home / "tiny")
    reader.adapted = lambda text: _shorter(desk.named(text))
    return Followed(desk, reader)


@pytest.mark.slow
@pytest.mark.timeout(460)
@pytest.mark.parametrize("page", PAGES_OF_FIRST)
def test_a_page_can_be_followed(page: str, followed: Followed) -> None:
    before = len(followed.reader.printed)
    followed.follow(page)
    assert len(followed.reader.printed) > before


@pytest.mark.slow
@pytest.mark.timeout(460)
@pytest.mark.parametrize("page", EXAMPLES)
def test_an_example_can_be_followed(page: str, home: Path) -> None:
    name = EXAMPLES[page]
    reader = Reader(home, environment(home), after=_shorten)
    reader.follow(Block(page, "sh", f"adapterctl example {name} -o {name}\ncd {name}\n", None, None))
    for block in blocks_of(ROOT / page):
        reader.follow(replace(block, text=block.text.replace("$base", NAME)))


@pytest.mark.slow
@pytest.mark.timeout(460)
def test_the_notebook_of_the_tutorial_runs_in_a_kernel(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Reader(home, environment(home), after=_shorten)
    reader.follow(
        Block("docs/tutorial.md", "sh", "adapterctl example docstrings -o tutorial\ncd tutorial\n", None, None)
    )
    notebook = nbformat.read(ROOT / "docs" / "tutorial.ipynb", as_version=4)
    assert [cell.outputs for cell in notebook.cells if cell.cell_type == "code" and cell.outputs] == []
    for name in set(os.environ) - set(reader.env):
        monkeypatch.delenv(name)
    for name, value in {**reader.env, "IPYTHONDIR": str(home), "JUPYTER_RUNTIME_DIR": str(home)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    place = {"metadata": {"path": str(reader.folder)}}
    NotebookClient(notebook, kernel_name="python3", timeout=400, startup_timeout=240, resources=place).execute()
    assert processes.run("adapterctl", "down", env=reader.env).returncode == 0
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    shown = {cell.source.partition("(")[0]: cell.outputs for cell in cells}
    assert shown["sdk.plot"][-1]["data"]["image/svg+xml"].startswith("<svg")
    assert "<table" in shown["sdk.compare"][-1]["data"]["text/html"]
    assert "production" in shown["sdk.promote"][-1]["data"]["text/html"]
    assert all(cell.outputs for cell in cells)


def _shorten(folder: Path) -> None:
    rows = folder / "train.jsonl"
    if rows.is_file():
        rows.write_text("".join(rows.read_text().splitlines(keepends=True)[:LEARNT_ROWS]))


def _shorter(text: str) -> str:
    for written, here in SHORTER.items():
        text = text.replace(written, here)
    return FEWER_ANSWERS.sub(r"\1 --generate-rows 4", SHORTER_TRAININGS.sub(r"\1 --max-steps 2 \2", text))
