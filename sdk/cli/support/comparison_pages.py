"""A comparison for the terminal, as Markdown and as a picture. Text from models and datasets is always shown as plain text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from string import ascii_uppercase
from typing import TYPE_CHECKING

from sdk.cli.support.output import filled, one_line, plain, render
from sdk.cli.support.records import print_facts, print_remark, print_table
from sdk.errors import InvalidInput
from sdk.formats.markdown import fenced, quoted, table_lines
from sdk.plotting.png import require_matplotlib
from sdk.schemas.scores import briefly

if TYPE_CHECKING:
    from sdk.schemas.scores import ChangedRow, ComparedPair, Comparison


#: How many characters of a text are shown.
_SHOWN = 300


def statement(pair: ComparedPair, *, alone: bool) -> str:
    """A verdict as a sentence that names its pair, unless it is the only one (`alone`)."""
    return pair.verdict if alone or pair.better is not None else f"{' and '.join(short_refs(pair))}: {pair.verdict}"


def short_refs(pair: ComparedPair) -> tuple[str, str]:
    """Name two versions as verdicts do: those of one adapter by their number.

    >>> from types import SimpleNamespace as Pair
    >>> short_refs(Pair(a="sql@v1", b="sql@v2")), short_refs(Pair(a="sql@v1", b="base:tiny"))
    (('v1', 'v2'), ('sql@v1', 'base:tiny'))
    """
    (one, _, a), (other, _, b) = pair.a.rpartition("@"), pair.b.rpartition("@")
    return (a, b) if one and one == other else (pair.a, pair.b)


def score_columns(found: Comparison) -> tuple[list[str], list[list[object]]]:
    """The table of scores, each under the letter that the table of pairs uses for it."""
    rows: list[list[object]] = [
        [letter, one.ref, one.score, briefly(one.contamination), one.evaluation]
        for letter, one in zip(ascii_uppercase, found.scores, strict=False)
    ]
    return ["", "ref", found.metric, "seen", "id"], rows


def pair_columns(found: Comparison) -> tuple[list[str], list[list[object]]]:
    """The table of pairs. p is corrected for all of them."""
    letters = dict(zip(found.refs, ascii_uppercase, strict=False))
    rows: list[list[object]] = [
        [
            f"{letters[one.b]} - {letters[one.a]}",
            one.difference,
            one.low,
            one.high,
            one.p_adjusted,
            one.detectable,
            one.rows_needed,
        ]
        for one in found.pairs
    ]
    return ["pair", "difference", "low", "high", "p", "can show", "rows needed"], rows


def comparison_lines(found: Comparison) -> Iterator[str]:
    """Yield the lines of a comparison."""
    yield filled(found.heading)
    yield ""
    yield render(*score_columns(found))
    yield ""
    yield render(*pair_columns(found))
    yield ""
    for pair in found.pairs:
        yield filled(statement(pair, alone=len(found.pairs) == 1))
    for note in found.notes:
        yield filled(note, "! ")
    for row in found.examples:
        yield from _example(row, found.refs)


def print_comparison(found: Comparison) -> None:
    """Print a comparison for a program: fields, the verdicts first."""
    print_facts([("metric", found.metric), ("heading", found.heading)])
    print_facts([("verdict", statement(pair, alone=len(found.pairs) == 1)) for pair in found.pairs])
    print_table(
        "scores",
        ["ref", found.metric, "seen", "id"],
        [(one.ref, one.score, briefly(one.contamination), one.evaluation) for one in found.scores],
    )
    print_table(
        "pairs",
        ["a", "b", "better", "difference", "low", "high", "p", "can show", "rows needed"],
        [
            (
                one.a,
                one.b,
                one.better,
                one.difference,
                one.low,
                one.high,
                one.p_adjusted,
                one.detectable,
                one.rows_needed,
            )
            for one in found.pairs
        ],
    )
    print_table(
        "examples",
        ["row", "ref", "score", "prediction", "expected", "prompt"],
        [
            (row.row, ref, score, prediction, row.reference, row.prompt)
            for row in found.examples
            for ref, score, prediction in zip(found.refs, row.scores, row.predictions, strict=True)
        ],
    )
    for note in found.notes:
        print_remark(note)


def _example(row: ChangedRow, refs: list[str]) -> Iterator[str]:
    yield ""
    yield filled(f"— row {row.row}" + ("" if row.prompt is None else f": {one_line(row.prompt, _SHOWN)}"))
    if row.reference:
        yield filled(one_line(row.reference, _SHOWN), "  expected: ")
    for ref, score, prediction in zip(refs, row.scores, row.predictions, strict=True):
        said = "" if prediction is None else f": {one_line(prediction, _SHOWN)}"
        yield filled(f"{ref} ({score:.4g}){said}", "  ")


def markdown_page(found: Comparison) -> str:
    """The comparison as Markdown, as GitHub shows it."""
    return "\n".join(_markdown(found)) + "\n"


def _markdown(found: Comparison) -> Iterator[str]:
    yield f"# {quoted(', '.join(found.refs))}"
    yield f"\n{quoted(found.heading)}\n"
    for pair in found.pairs:
        yield f"- {quoted(statement(pair, alone=len(found.pairs) == 1))}"
    for note in found.notes:
        yield f"- {quoted(note)}"
    yield ""
    yield from table_lines(*score_columns(found))
    yield ""
    yield from table_lines(*pair_columns(found))
    for row in found.examples:
        yield f"\n## Row {row.row}"
        for title, text in _texts(row, found.refs):
            yield f"\n{quoted(title)}\n\n{fenced(text)}"


def _texts(row: ChangedRow, refs: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The parts of a row that are shown, each under its title."""
    if row.prompt is not None:
        yield "Prompt", row.prompt
    if row.reference is not None:
        yield "Expected", row.reference
    for ref, score, prediction in zip(refs, row.scores, row.predictions, strict=True):
        yield f"{ref}: {score:.4g}", "" if prediction is None else prediction


#: How many characters of a ref are shown: the last ones, which have the version.
_REF_CHARACTERS = 32


def write_png(found: Comparison, path: Path) -> None:
    """Draw the comparison into a file, which is replaced. Raises Unavailable without matplotlib, InvalidInput for a bad path."""
    require_matplotlib("take --format html")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.6 + 0.45 * len(found.pairs)), layout="constrained")
    axes = figure.subplots()
    for place, pair in enumerate(reversed(found.pairs)):
        colour = "tab:gray" if pair.better is None else "tab:blue"
        if pair.low is not None and pair.high is not None:
            axes.plot([pair.low, pair.high], [place, place], color=colour, linewidth=2)
        axes.plot([pair.difference], [place], "o", color=colour)
    axes.axvline(0, color="black", linewidth=0.8)
    labels = [_text(f"{_short(pair.b)} - {_short(pair.a)}") for pair in reversed(found.pairs)]
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(-0.6, len(labels) - 0.4)
    axes.set_xlabel(_text(f"difference of {found.metric}, with its 95 % interval"))
    verdict = f"\n{statement(found.pairs[0], alone=True)}" if len(found.pairs) == 1 else ""
    axes.set_title(_text(found.heading + verdict), fontsize="medium", loc="left", wrap=True)
    try:
        figure.savefig(path, format="png", dpi=150)
    except OSError as error:
        raise InvalidInput(f"{path} can't be written ({error.strerror}); choose another path", param="png") from error


def _short(ref: str) -> str:
    return ref if len(ref) <= _REF_CHARACTERS else f"…{ref[1 - _REF_CHARACTERS :]}"


def _text(text: str) -> str:
    """Text as it is: matplotlib would read a formula between two dollar signs."""
    return "\n".join(plain(line) for line in text.split("\n")).replace("$", r"\$")
