"""What the pages name is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support import cli_pages, option_tables

from sdk.schemas.option_types import options_of
from sdk.schemas.sweep_axes import Range, Values
from sdk.schemas.sweep_grid import grid
from sdk.schemas.sweeps import SweepFields
from sdk.schemas.training import TrainingSpec
from sdk.schemas.varied_options import parse_axis

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


def test_the_table_of_a_sweep_s_options_is_written_from_its_fields() -> None:
    page = option_tables.SWEEPS.read_text()
    assert page == option_tables.written_of_sweeps(page), "run: PYTHONPATH=tests python -m support.option_tables"
    assert [name for name in options_of(SweepFields) if page.count(f"\n| `{name}` | ") == 0] == []


def test_what_a_sweep_varies_is_read_as_its_page_says() -> None:
    text = option_tables.SWEEPS.read_text().partition("<!-- grammar")[2].partition("<!-- end of grammar")[0]
    rows = re.findall(r"^\| `--([a-z-]+)[ =]'?([^`']+)'?` \| (.+) \|$", text, re.MULTILINE)
    assert len(rows) == text.count("\n| `") >= 10
    for option, written, said in rows:
        name = option.replace("-", "_")
        axis = parse_axis(name, written)
        if isinstance(axis, Range) and axis.count is None:
            assert said.startswith("any between them")
        elif isinstance(axis, Values | Range):
            assert re.split(r", | and ", said) == [_shown(setting[name]) for setting in grid({name: axis})]
        else:
            assert said == f"{axis} for all: it doesn't vary"


def _shown(value: object) -> str:
    return {None: "none", True: "yes", False: "no"}[value] if value is None or isinstance(value, bool) else str(value)


def test_the_page_of_the_sdk_has_each_noun_and_each_of_its_methods(tmp_path: Path) -> None:
    from contextlib import closing
    from functools import cached_property

    import sdk
    from sdk.default_client import OfDefaultClient

    page = (ROOT / "docs" / "python.md").read_text()
    table = {
        row[0]: re.findall(r"`(\w+)`", row[1]) for row in re.findall(r"^\| `(\w+)` \|.*\|(.*)\|$", page, re.MULTILINE)
    }
    delegates = [name for name in sdk.__all__ if isinstance(getattr(sdk, name), OfDefaultClient)]
    with closing(sdk.Client(f"local:{tmp_path}")) as client:
        nouns = {
            name: getattr(client, name) for name in delegates if isinstance(vars(sdk.Client)[name], cached_property)
        }
        assert table == {name: [each for each in dir(noun) if not each.startswith("_")] for name, noun in nouns.items()}
    assert [name for name in delegates if f"`{name}`" not in page] == []


def test_the_reference_of_the_command_line_is_written_from_the_commands() -> None:
    page = cli_pages.PAGE.read_text(encoding="utf-8")
    assert page == cli_pages.written(), "run: PYTHONPATH=tests python -m support.cli_pages"


def test_the_index_of_the_documentation_names_each_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert {page for page in pages if f"]({page})" not in index} == set()


def _anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them; code may have lines that look like headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    found: list[str] = []
    for heading in re.findall(r"^#+ (.+?)\s*$", text, re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        found.append(f"{slug}-{found.count(slug)}" if slug in found else slug)
    return {*found, *re.findall(r"<a id=\"([\w-]+)\">", text)}


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.name)
def test_a_link_to_a_section_leads_to_one(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]*)#([\w-]+)\)", page.read_text(encoding="utf-8"))
    assert [
        f"{target}#{anchor}"
        for target, anchor in links
        if not target or target.endswith(".md")
        if anchor not in _anchors(page.parent / target if target else page)
    ] == []


def test_each_message_of_the_troubleshooting_page_is_one_of_ours() -> None:
    rows = re.findall(r"^\| `([^`]+)` \| \d+ \|", (ROOT / "docs" / "troubleshooting.md").read_text(), re.MULTILINE)
    assert len(rows) >= 25
    sources = "".join(
        path.read_text(encoding="utf-8")
        for room in ("sdk", "registry", "workers")
        for path in (ROOT / room).rglob("*.py")
    )
    # A message may go on in the next literal of its expression.
    joined = re.sub(r'"\s+f?"', "", sources)
    missing = [row for row in rows if not all(part in joined for part in re.split(r"\{\w+\}", row))]
    assert missing == []
