"""Every block of the pages is run: where its page is followed, by a test that names it, or its page says why it can't be.

Pages are followed as printed, in the folder that `adapterctl example` makes. What stands for SmolLM2 there is a tiny base
in its place in the cache, and only the first rows are learnt.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from support import child_forks, processes
from support.blocks import PAGES, ROOT, Block, Reader, blocks_of, lines_of
from support.tiny import _make

from sdk.examples.base import NAME

#: Blocks that nothing here can run, by page; each says why in the page's source. A number may only fall.
NOT_RUN = {
    "README.md": 4,
    "docs/artifacts.md": 6,
    "docs/combining.md": 2,
    "docs/data.md": 6,
    "docs/deploy.md": 4,
    "docs/evaluation.md": 5,
    "docs/exporting.md": 2,
    "docs/jobs.md": 3,
    "docs/models.md": 1,
    "docs/pages.md": 1,
    "docs/promoting.md": 4,
    "docs/registry.md": 7,
    "docs/search.md": 2,
    "docs/stack.md": 1,
    "docs/sweeps.md": 3,
    "docs/upgrading.md": 1,
}
#: Pages that are followed one after another in one folder: what one has run, the next one doesn't run again.
FOLLOWED = {
    "first": ["docs/quickstart.md", "sdk/examples/docstrings/README.md", "README.md", "docs/search.md"],
    "training": ["docs/training.md"],
    "labels": ["sdk/examples/labels/README.md"],
    "preferences": ["sdk/examples/preferences/README.md"],
}
#: The example in whose folder pages are followed that don't make it themselves.
EXAMPLES = {"training": "docstrings", "labels": "labels", "preferences": "preferences"}
#: Rows of an example that are learnt here.
LEARNT_ROWS = 32

BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def test_every_block_is_run_or_says_why_not() -> None:
    left = [f"{block.page}: {block.text.splitlines()[0]}" for block in BLOCKS if block.is_followed]
    followed = {page for pages in FOLLOWED.values() for page in pages}
    unknown = [line for line in left if line.split(":")[0] not in followed]
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


def test_a_block_says_how_it_is_run(tmp_path: Path) -> None:
    page = ROOT / "docs" / "quickstart.md"
    assert all(block.is_followed for block in blocks_of(page))
    assert [block.name for block in blocks_of(ROOT / "docs" / "serving.md")][:2] == ["ask", "serve"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / NAME
    rows = (ROOT / "sdk" / "examples" / "docstrings" / "train.jsonl").read_text().splitlines()
    _make.save_llama(folder, _make.save_tokenizer(folder, rows), positions=1024)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(460)
@pytest.mark.parametrize("pages", FOLLOWED)
def test_pages_can_be_followed(pages: str, base: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(base, home / ".cache" / "adapterctl" / "examples" / NAME)
    env = processes.environment(
        HOME=str(home), XDG_CACHE_HOME=str(home / ".cache"), PATH=f"{processes.BIN}{os.pathsep}{os.environ['PATH']}"
    )
    reader = Reader(tmp_path, env, after=_shorten)
    with child_forks.local_runner(home / ".adapterctl", env):
        if (example := EXAMPLES.get(pages)) is not None:
            reader.follow(Block(pages, "sh", f"adapterctl example {example} -o work\ncd work\n", None, None))
        for page in FOLLOWED[pages]:
            for block in blocks_of(ROOT / page):
                if block.is_followed:
                    # The page of an example is written with the name of its base.
                    reader.follow(replace(block, text=block.text.replace("$base", NAME)))
    assert reader.printed
    if any("generate" in line for line in reader.printed):
        # The program that answers waits for the next question.
        assert processes.run("adapterctl", "down", env=env).returncode == 0
    runner = home / ".adapterctl" / "logs" / "runner.log"
    assert not runner.exists(), f"a command has started a runner: {runner.read_text()}"


def _shorten(folder: Path) -> None:
    rows = folder / "train.jsonl"
    if rows.is_file():
        rows.write_text("".join(rows.read_text().splitlines(keepends=True)[:LEARNT_ROWS]))
