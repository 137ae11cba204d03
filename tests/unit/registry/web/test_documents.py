"""A document as HTML and as Markdown: texts stay texts, nothing is loaded, and nothing runs but the report's own script."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest
from support.sweep_views import sweep_view

from registry.series.drawing import CurveName, Drawing, DrawnLine, DrawnPanel
from registry.web.document import (
    Cell,
    CellTable,
    Document,
    Drawn,
    FactList,
    Foldout,
    Image,
    Section,
    Sentences,
    TextParts,
    turned,
)
from registry.web.reports.html import html_of
from registry.web.reports.markdown import markdown_of
from registry.web.reports.sweeps import sweep_sections

HOSTILE = (
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "</pre></body><img src=x onerror=alert(1)>",
    "\"'><svg onload=alert(1)>",
    "```\n# not a heading\n````html\n<b>",
    "[link](javascript:alert(1)) | cell | ![x](http://evil.invalid)",
    "https://evil.invalid/ and www.evil.invalid and @somebody",
    "<!--",
    "&lt;b&gt; &amp; {{ 7 * 7 }}",
    "| a | b |\n|---|---|\n",
    "\x1b[31mred \u202egnp.exe",
)
ABOUT = FactList([("Holds", Cell("something"))])


def document(text: str) -> Document:
    drawing = Drawing(
        by="step", at=[1.0, 2.0], curves=[CurveName(name=text, last_step=2)],
        panels=[DrawnPanel(key="loss", title="loss", lines=[DrawnLine(curve=0, mean=[2.0, 1.0])])],
    )  # fmt: skip
    blocks = [
        CellTable(text, [Cell(text), Cell("b")], [[Cell(text), Cell(text, "ref", "adapters/a", text)]]),
        Sentences([text]),
        TextParts(text, [(text, text)]),
        Foldout(text, [FactList([(text, Cell(text))])]),
        Image("<svg xmlns='http://www.w3.org/2000/svg'/>", text),
        Drawn(text, drawing, "<svg/>"),
    ]
    return Document(text, [Section(text, blocks)], text, frozenset({"team"}), named={text: text})


class Tags(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.attributes: set[str] = set()
        self.contents: list[tuple[str, dict[str, str | None], str]] = []
        self._open: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append(tag)
        self.attributes |= given.keys()
        self.addresses += [given[name] or "" for name in ("src", "href", "action", "srcset", "data") if name in given]
        if tag in ("script", "style"):
            self._open.append((tag, given))

    def handle_data(self, data: str) -> None:
        if self._open:
            self.contents.append((*self._open.pop(), data))


@pytest.mark.parametrize("text", HOSTILE)
def test_html_has_no_tags_but_its_own(text: str) -> None:
    plain, page = Tags(html_of(document("said"), ABOUT)), html_of(document(text), ABOUT)
    found = Tags(page)
    assert (found.tags, found.attributes) == (plain.tags, plain.attributes)
    assert not {name for name in found.attributes if name.startswith("on")} | {"style"} & found.attributes
    assert all(address.startswith("data:image/svg+xml;base64,") for address in found.addresses)
    data = [text_ for tag, given, text_ in found.contents if given.get("type") == "application/json"]
    assert json.loads(data[0])["curves"][0]["name"] == text


def test_policy_names_the_digests_of_what_runs_and_nothing_else() -> None:
    page = html_of(document("</script>"), ABOUT)
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy[1].replace("&#39;", "'").split(";"))
    run = [(tag, text) for tag, given, text in Tags(page).contents if "type" not in given]
    hashed = {f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for _, text in run}
    assert {*rules["script-src"].split(), *rules["style-src"].split()} == hashed
    assert (rules["default-src"], rules["img-src"], rules["form-action"]) == ("'none'", "data:", "'none'")
    without = html_of(Document("a", [Section("b", [Sentences(["c"])])], "d", frozenset()), ABOUT)
    assert "script-src &#39;none&#39;" in without
    assert "<script" not in without


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown_has_no_line_that_means_anything_but_its_own(text: str) -> None:
    outside, fence = [], None
    for line in markdown_of(document(text), ABOUT).splitlines():
        if fence is None and line.startswith("```"):
            fence = line.removesuffix("text")
        elif fence is not None:
            fence = None if line == fence else fence
        else:
            outside.append(line)
    assert fence is None
    assert [line.partition(" ")[0] for line in outside if line.startswith("#")] == ["#", "##", "###", "###"]
    assert len([line for line in outside if line.startswith("|")]) == 6
    for line in outside:
        said = line.replace("@<!-- -->", "")
        assert not re.search(r"(?<!\\)<|\]\(|https?://|www\.|(?<!\w)@\w", said.replace("\\\\", ""))
        assert all(character.isprintable() for character in line)


def test_markdown_has_a_line_for_each_setting_if_there_are_more_settings_than_versions() -> None:
    wide = CellTable("a", [Cell("Setting"), *(Cell(f"s{n}") for n in range(60))], [[Cell("v1"), *[Cell("1")] * 60]])
    text = markdown_of(Document("a", [Section("b", [wide])], "c", frozenset()), ABOUT)
    assert "| Setting | v1 |\n|---|---|\n| s0 | 1 |\n" in text


@pytest.mark.parametrize("name", ["- a", "1. a", "12. a"])
def test_markdown_begins_no_list_with_a_name(name: str) -> None:
    begins = markdown_of(Document("a", [Section("b", [Sentences([name])])], "c", frozenset()), ABOUT).splitlines()[-1]
    assert re.fullmatch(r"- (\\-|\d+\\.) a", begins)


def test_turned_table_has_its_rows_as_columns() -> None:
    found = turned("a", [Cell("Score"), Cell("v1"), Cell("v2")], [[Cell("loss"), Cell("1"), Cell("2")]])
    assert [cell.text for cell in found.headings] == ["Score", "loss"]
    assert [[cell.text for cell in row] for row in found.rows] == [["v1", "1"], ["v2", "2"]]


def test_sweep_has_its_settings_with_their_direction_and_its_members() -> None:
    view = sweep_view([{"rank": 4}, {"rank": 16}], [1.5, 1.25])
    sections = {section.title: section for section in sweep_sections(view)}
    (settings, *_) = [block for block in sections["Settings"].blocks if isinstance(block, CellTable)]
    assert len(settings.rows) == len(view.verdict.settings)
    assert any("less is better" in cell.text for cell in settings.headings)
    best = next(row for row in settings.rows if any(cell.text == "best" for cell in row))
    assert best
    text = markdown_of(Document("a", [*sections.values()], "a sweep", frozenset()), ABOUT).replace("\\", "")
    for member in view.members:
        assert f"sweep:{view.id}/{member.number}" in text
    assert view.verdict.recommendation.split()[0] in text
    assert "<img" in html_of(Document("a", [*sections.values()], "a sweep", frozenset()), ABOUT)
