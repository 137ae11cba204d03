"""A document as Markdown, as GitHub shows it. Whatever is in it, only what is written here has a meaning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from registry.series.drawing import Drawing
from registry.web.document import (
    Block,
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
from sdk.formats.markdown import fenced, quoted, table_lines
from sdk.plotting.curves import LOSS

#: A table with more columns has its lines as columns, if these are fewer.
_MOST_COLUMNS = 12
_CURVES = ("of", "steps", "loss at the end", "lowest held-out loss", "at step")


def markdown_of(document: Document, about: FactList) -> str:
    """Return a document, below what it says of itself."""
    return "\n".join(_lines(document, about)) + "\n"


def _lines(document: Document, about: FactList) -> Iterator[str]:
    yield f"# {quoted(document.title)}\n"
    yield from _block(about)
    for section in document.sections:
        yield from _section(section)


def _section(section: Section) -> Iterator[str]:
    yield f"\n## {quoted(section.title)}"
    for block in section.blocks:
        yield ""
        yield from _block(block)


def _block(block: Block) -> Iterator[str]:
    match block:
        case FactList(rows):
            for name, cell in rows:
                yield f"- {quoted(name)}: {quoted(cell.text)}"
        case CellTable(label, headings, rows):
            if len(headings) > max(_MOST_COLUMNS, len(rows) + 1):
                # Nobody reads lines of sixty settings.
                wide = turned(label, headings, rows)
                headings, rows = wide.headings, wide.rows
            yield from table_lines(_texts(headings), [_texts(row) for row in rows])
        case Sentences(texts):
            for text in texts:
                yield f"- {quoted(text)}"
        case TextParts(title, parts):
            yield f"### {quoted(title)}"
            for name, text in parts:
                yield f"\n{quoted(name)}\n\n{fenced(text)}"
        case Foldout(title, blocks):
            yield f"### {quoted(title)}"
            for each in blocks:
                yield ""
                yield from _block(each)
        case Drawn(_, drawing) if drawing is not None:
            yield from table_lines(_CURVES, [_curve(drawing, at) for at in range(len(drawing.curves))])
        case Image(_, label):
            yield quoted(f"(The HTML report has a picture here: {label}.)")


def _texts(cells: Sequence[Cell]) -> list[str]:
    return [cell.text for cell in cells]


def _curve(drawing: Drawing, at: int) -> list[object]:
    """What a curve comes to: its last loss, which is a mean over some steps, and its best look at held-out rows."""
    end, best = None, None
    for panel in drawing.panels:
        for line in panel.lines:
            if panel.key == LOSS and line.curve == at:
                *_, (_, end) = line.means(drawing.at)
        for looks in panel.looks:
            if panel.key == LOSS and looks.curve == at:
                best = min(zip(looks.value, looks.step, strict=True))
    one = drawing.curves[at]
    return [one.name, one.last_step, end, *(best or (None, None))]
