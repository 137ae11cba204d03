"""What the pages name is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support import option_tables

from sdk.schemas.training import TrainingSpec

ROOT = Path(__file__).resolve().parents[2]


PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "SECURITY.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text()
    named = set(re.findall(r"`((?:tests|benchmarks|examples|sdk|registry|workers)/[\w/.]+)`", text))
    linked = {target.partition("#")[0] for target in re.findall(r"\]\(([^)#:]+)(?:#[\w-]+)?\)", text)}
    missing = {name for name in named if not (ROOT / name).exists()}
    missing |= {name for name in linked if name and not (page.parent / name).exists()}
    assert not missing


def test_the_tables_of_training_options_are_written_from_the_spec() -> None:
    page = option_tables.PAGE.read_text()
    assert page == option_tables.written(page), "run: PYTHONPATH=tests python -m support.option_tables"
    assert [name for name in TrainingSpec.model_fields if page.count(f"\n| `{name}` | ") == 0] == []


def test_the_page_of_the_sdk_has_each_noun_and_each_of_its_methods(tmp_path: Path) -> None:
    from contextlib import closing

    import sdk
    from sdk.default_client import OfDefaultClient

    page = (ROOT / "docs" / "python.md").read_text()
    table = {
        row[0]: re.findall(r"`(\w+)`", row[1]) for row in re.findall(r"^\| `(\w+)` \|.*\|(.*)\|$", page, re.MULTILINE)
    }
    delegates = [name for name in sdk.__all__ if isinstance(getattr(sdk, name), OfDefaultClient)]
    with closing(sdk.Client(f"local:{tmp_path}")) as client:
        nouns = {name: vars(client)[name] for name in delegates if name in vars(client)}
        assert table == {name: [each for each in dir(noun) if not each.startswith("_")] for name, noun in nouns.items()}
    assert [name for name in delegates if f"`{name}`" not in page] == []
