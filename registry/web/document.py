"""What a page and a report show, as plain values: sections of tables, facts, sentences, texts and curves.

One set of templates writes it as HTML, for pages and for reports, and `registry.web.reports.markdown` as Markdown. All texts
in it are plain; whoever writes them out escapes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

from registry.series.drawing import Drawing
from registry.web.rendering import score


class Cell(NamedTuple):
    """What stands in one place of a table."""

    text: str
    #: "number" stands at the right, "ref" is a ref, a digest or an id.
    kind: Literal["text", "number", "ref"] = "text"
    #: The address of a page; reports have no links.
    to: str | None = None
    #: What else there is to know about it.
    title: str | None = None


#: How moments are written, in UTC.
WHEN = "%Y-%m-%d %H:%M"
#: How many names stand in one cell; a version may have a thousand aliases.
MOST_NAMES = 20
#: What stands for a value that there is none of.
NOTHING = Cell("–")


def ref(text: str, to: str | None = None) -> Cell:
    """Return a ref, a digest or an id."""
    return Cell(text, "ref", to)


def names(all_of_them: Sequence[str]) -> Cell:
    """Return as many names as there is room for, and how many more there are."""
    shown = ", ".join(all_of_them[:MOST_NAMES])
    more = len(all_of_them) - MOST_NAMES
    return Cell(f"{shown} and {more} more" if more > 0 else shown) if shown else NOTHING


def number(value: float | None, title: str | None = None, *, digits: int = 5) -> Cell:
    """Return a score or a count, with as many digits that count."""
    if value is None:
        return Cell("–", "number")
    return Cell(f"{value:,}" if isinstance(value, int) else score(value, digits), "number", title=title)


@dataclass(frozen=True)
class FactList:
    """Values under their names."""

    template: ClassVar[str] = "facts"
    rows: Sequence[tuple[str, Cell]]


@dataclass(frozen=True)
class CellTable:
    """A table; the first cell of a row is its heading."""

    template: ClassVar[str] = "table"
    label: str
    headings: Sequence[Cell]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Sentences:
    """Sentences, one by one."""

    template: ClassVar[str] = "sentences"
    texts: Sequence[str]
    tone: Literal["plain", "notice"] = "plain"


@dataclass(frozen=True)
class TextParts:
    """TextParts of rows and answers, each under its title, as they are."""

    template: ClassVar[str] = "texts"
    title: str
    parts: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Image:
    """A drawing."""

    template: ClassVar[str] = "picture"
    svg: str
    label: str


@dataclass(frozen=True)
class Drawn:
    """What trainings measured by step."""

    template: ClassVar[str] = "curves"
    label: str
    #: None: a page loads it by the refs.
    drawing: Drawing | None = None
    #: The same as SVG, for whoever has no script.
    picture: str = ""
    refs: Sequence[str] = ()


@dataclass(frozen=True)
class Foldout:
    """What is only shown when it is asked for."""

    template: ClassVar[str] = "folded"
    title: str
    blocks: Sequence[Any]


Block = FactList | CellTable | Sentences | TextParts | Image | Drawn | Foldout


@dataclass(frozen=True)
class Section:
    """A part under a heading."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Document:
    """A whole report."""

    title: str
    sections: Sequence[Section]
    #: What it is of, such as "3 versions".
    holds: str
    #: The namespaces whose readers may see what is in it.
    namespaces: frozenset[str]
    #: Digests of the datasets whose rows are in it.
    datasets: frozenset[str] = frozenset()
    #: How many rows and samples are in it.
    rows: int = 0
    #: What was named by names that move → what that was then.
    named: Mapping[str, str] = field(default_factory=dict)


#: How many characters of a text of a row are shown.
_MOST_CHARACTERS = 8_000


def part(title: str, text: str | None) -> tuple[str, str]:
    """Return a text under its title, which says so if it is cut."""
    if text is None or len(text) <= _MOST_CHARACTERS:
        return title, text or ""
    return f"{title} (the first {_MOST_CHARACTERS:,} of {len(text):,} characters)", text[:_MOST_CHARACTERS]


def turned(label: str, headings: Sequence[Cell], rows: Sequence[Sequence[Cell]]) -> CellTable:
    """Return a table whose columns are the rows of another."""
    head, *below = zip(headings, *rows, strict=True)
    return CellTable(label, head, below)
