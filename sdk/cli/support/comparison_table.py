"""A comparison for the terminal: scores, each pair with its verdict, and the rows that changed most."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from string import ascii_uppercase
from typing import TYPE_CHECKING

from sdk.cli.support.output import WIDTH, plain, render
from sdk.schemas.contamination import briefly

if TYPE_CHECKING:
    from sdk.schemas.comparison import ChangedRow, ComparedPair, Comparison

#: How many characters of a text are shown.
_SHOWN = 300


def heading(found: Comparison) -> str:
    """What is compared on what: "loss on 3f1a5c0d9e2b: 48 rows in 12 groups by repo; less is better"."""
    rows = "1 row" if found.rows == 1 else f"{found.rows} rows"
    groups = "" if found.groups is None else f" in {found.groups} groups by {found.by}"
    groups = groups if found.distinct_rows is None else f", {found.distinct_rows} of them different"
    return f"{found.metric} on {found.dataset[:12]}: {rows}{groups}; {'less' if found.lower_is_better else 'more'} is better"


def statement(pair: ComparedPair, *, alone: bool) -> str:
    """A verdict as a sentence that names its pair, unless it is the only one (`alone`)."""
    return pair.verdict if alone or pair.better is not None else f"{pair.a} and {pair.b}: {pair.verdict}"


def score_columns(found: Comparison) -> tuple[list[str], list[list[object]]]:
    """The table of scores, each under the letter that the table of pairs uses for it."""
    rows: list[list[object]] = [
        [letter, one.ref, one.score, briefly(one.contamination), one.evaluation]
        for letter, one in zip(ascii_uppercase, found.scores, strict=False)
    ]
    return ["", "ref", found.metric, "seen", "scores"], rows


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
    yield _wrapped(heading(found))
    yield ""
    yield render(*score_columns(found))
    yield ""
    yield render(*pair_columns(found))
    yield ""
    for pair in found.pairs:
        yield _wrapped(statement(pair, alone=len(found.pairs) == 1))
    for note in found.notes:
        yield _wrapped(note, first="! ")
    for row in found.examples:
        yield from _example(row, found.refs)


def _example(row: ChangedRow, refs: list[str]) -> Iterator[str]:
    yield ""
    yield _wrapped(f"— row {row.row}" + ("" if row.prompt is None else f": {_one_line(row.prompt)}"))
    if row.reference:
        yield _wrapped(_one_line(row.reference), first="  expected: ")
    for ref, score, prediction in zip(refs, row.scores, row.predictions, strict=True):
        said = "" if prediction is None else f": {_one_line(prediction)}"
        yield _wrapped(f"{ref} ({score:.4g}){said}", first="  ")


def _one_line(text: str) -> str:
    joined = " ".join(text.split())
    return joined if len(joined) <= _SHOWN else joined[: _SHOWN - 1] + "…"


def _wrapped(text: str, *, first: str = "") -> str:
    return textwrap.fill(plain(text), WIDTH, initial_indent=first, subsequent_indent=" " * len(first))
