"""A document as Markdown, as GitHub shows it. Whatever is in it, only what is written here has a meaning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from registry.web.document import (
    Block,
    Cell,
    Curves,
    Document,
    Facts,
    Folded,
    Picture,
    Section,
    Sentences,
    Table,
    Texts,
)
from sdk.formats.markdown import fenced, quoted, table_lines
from sdk.schemas.series import Series

_CURVES = ("of", "steps", "loss at the end", "lowest held-out loss", "at step")


def markdown_of(document: Document, about: Facts) -> str:
    """Return a document, below what it says of itself."""
    return "\n".join(_lines(document, about)) + "\n"


def _lines(document: Document, about: Facts) -> Iterator[str]:
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
        case Facts(rows):
            for name, cell in rows:
                yield f"- {quoted(name)}: {quoted(cell.text)}"
        case Table(_, headings, rows):
            yield from table_lines(_texts(headings), [_texts(row) for row in rows])
        case Sentences(texts):
            for text in texts:
                yield f"- {quoted(text)}"
        case Texts(title, parts):
            yield f"### {quoted(title)}"
            for name, text in parts:
                yield f"\n{quoted(name)}\n\n{fenced(text)}"
        case Folded(title, blocks):
            yield f"### {quoted(title)}"
            for each in blocks:
                yield ""
                yield from _block(each)
        case Curves(series):
            yield from table_lines(_CURVES, [_curve(name, one) for name, one in series.items()])
        case Picture(_, label):
            yield quoted(f"(The HTML report has a picture here: {label}.)")


def _texts(cells: Sequence[Cell]) -> list[str]:
    return [cell.text for cell in cells]


def _curve(name: str, found: Series) -> list[object]:
    loss, held_out = found.series.get("loss"), found.series.get("eval_loss")
    best = None if held_out is None else min(range(len(held_out.min)), key=held_out.min.__getitem__)
    return [
        name,
        found.last_step,
        None if loss is None else loss.last[-1],
        None if held_out is None or best is None else held_out.min[best],
        None if held_out is None or best is None else held_out.step[best],
    ]
