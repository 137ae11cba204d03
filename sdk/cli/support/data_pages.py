"""What `data check` and `data preview` print: findings, and rows as a training would learn them, with the loss marked."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import click

from sdk.cli.support.columns import ListColumn
from sdk.cli.support.listings import Listing
from sdk.cli.support.output import filled, fit, is_piped, plain, print_json, print_one, render, say, writable
from sdk.cli.support.records import print_facts
from sdk.formats.objectives import OBJECTIVES
from sdk.formats.template_kwargs import said_in
from sdk.schemas.preview import Preview, PreviewText
from sdk.schemas.version_records import special_tokens_said

if TYPE_CHECKING:
    from sdk.schemas.data_audit import AuditExample, DataAudit, LengthBucket, TokenCounts


#: The text for each kind of finding; kinds from a later release are shown by name.
_SAID = {
    "unusable": "rows that can't be used",
    "empty": "rows that lack a text",
    "labels": "rows whose labels can't be learnt",
    "exact_duplicate": "rows that repeat an earlier one",
    "normalised_duplicate": "rows that repeat an earlier one but for case and spaces",
    "near_duplicate": "rows that nearly repeat an earlier one",
    "conflict": "rows that answer a prompt otherwise than an earlier one",
    "held_out_unusable": "held-out rows that can't be used",
    "held_out_labels": "held-out rows with other labels",
    "held_out_exact": "held-out rows that are here, too",
    "held_out_normalised": "held-out rows that are here but for case and spaces",
    "held_out_near": "held-out rows that are nearly here",
    "control_characters": "rows with characters that are not seen",
    "refused_by_base": "rows that can't be used over this base",
    "too_long": "rows that are too long, and would be truncated",
}
#: Kinds whose detail is a sentence that says what to do.
_FAULTS = ("unusable", "held_out_unusable", "refused_by_base")
_MOST_SCRIPTS = 6
_BAR = 24


#: What a pipe gets: an example a line.
FINDINGS = Listing(
    ListColumn("kind"),
    ListColumn("rows", importance=8),
    ListColumn("example", importance=7),
    ListColumn("held out", importance=6),
    ListColumn("detail", importance=5),
    key="kind",
)


def print_audit(found: DataAudit, style: str) -> None:
    """Print findings with their rows, then what all rows are; "quiet": only the kinds that were found."""
    draw = _print_findings if is_piped() else _print_audit
    print_one(style, found, (finding.kind for finding in found.findings), lambda: draw(found))


def _print_findings(found: DataAudit) -> None:
    rows = [
        {
            "kind": finding.kind,
            "rows": finding.rows,
            "example": None if example is None else example.rows,
            "held_out": None if example is None else example.held_out,
            "detail": None if example is None else example.detail,
        }
        for finding in found.findings
        for example in (*finding.examples, *([] if finding.examples else [None]))
    ]
    FINDINGS.print("table", rows, empty="nothing is wrong with these rows")
    for name, value in _facts(found):
        if value is not None:
            say(f"{name}: {value}")


def _print_audit(found: DataAudit) -> None:
    for finding in found.findings:
        click.echo(fit(f"{_SAID.get(finding.kind, finding.kind)}: {finding.rows}"))
        for example in _each_fault_once(finding.examples):
            click.echo(
                writable(
                    filled(_example(example), "  ", "    ")
                    if finding.kind in _FAULTS
                    else fit(f"  {_example(example)}")
                )
            )
    if not found.findings:
        click.echo("nothing is wrong with these rows")
    click.echo()
    print_facts(_facts(found))
    click.echo()
    counted = found.tokens
    click.echo(_histogram("tokens", counted.lengths) if counted else _histogram("characters", found.lengths))


def _each_fault_once(examples: Sequence[AuditExample]) -> list[AuditExample]:
    """Join rows with the same fault."""
    found: dict[object, AuditExample] = {}
    for number, example in enumerate(examples):
        key = (
            number
            if example.detail is None or example.held_out is not None or len(example.rows) > 1
            else example.detail
        )
        earlier = found.get(key)
        found[key] = example if earlier is None else earlier.model_copy(update={"rows": [*earlier.rows, *example.rows]})
    return list(found.values())


def _example(example: AuditExample) -> str:
    rows = ", ".join(example.rows)
    if example.held_out is not None:
        rows = f"held-out {example.held_out} is {rows}"
    return ": ".join(part for part in (rows, example.detail) if part)


def _facts(found: DataAudit) -> list[tuple[str, str | None]]:
    scripts = list(found.scripts.items())[:_MOST_SCRIPTS]
    return [
        ("rows", f"{found.rows}, of which {found.usable_rows} can be used; {found.shape or 'no'} shape"),
        *([] if found.held_out_rows is None else [("held out", f"{found.held_out_rows} rows")]),
        ("scripts", ", ".join(f"{script} {100 * share:.1f} %" for script, share in scripts) or None),
        *([] if found.complete else [("near", "not all candidates were compared: there may be more")]),
        *([] if found.tokens is None else [("tokens", _tokens(found.tokens))]),
        *([] if found.tokens is None else _special_tokens(found.tokens.had_special)),
    ]


def _special_tokens(had: Mapping[str, int]) -> list[tuple[str, str]]:
    said = special_tokens_said({plain(token): rows for token, rows in had.items()})
    return [] if said is None else [("special tokens", said)]


def _tokens(counted: TokenCounts) -> str:
    sample = (
        "all rows"
        if counted.rows + counted.rows_refused == counted.of_rows
        else f"a sample of {counted.rows} of {counted.of_rows} rows"
    )
    return (
        f"{counted.tokens} in {sample}, {counted.supervised_tokens} supervised, the longest {counted.longest}; "
        f"truncated to {counted.max_length}: {counted.rows_cut} rows, {counted.tokens_lost} tokens lost, "
        f"{counted.rows_dropped} rows dropped" + (f"; {counted.rows_split} texts split" if counted.rows_split else "")
    )


def _histogram(unit: str, lengths: Sequence[LengthBucket]) -> str:
    most = max((bucket.rows for bucket in lengths), default=1)
    rows = [[bucket.up_to, bucket.rows, "█" * round(_BAR * bucket.rows / most)] for bucket in lengths]
    return writable(render([f"{unit} up to", "rows", ""], rows))


#: The marks around what is learnt if there are no colours.
_BEGINS, _ENDS = "⟦", "⟧"
#: How many characters of the cut-off text are shown.
_MOST_CUT_CHARACTERS = 200


def print_preview(preview: Preview, style: str = "table") -> None:
    """Print the texts with what is learnt marked, then remarks about all of them; "quiet": only what is learnt."""
    if style == "json":
        print_json(preview)
        return
    quiet = style == "quiet"
    for text, answer in zip(preview.rows, _answers(preview), strict=True):
        if quiet:
            click.echo(writable(lines(text.supervised_text if text.label is None else text.label)))
            continue
        click.echo(bold(_headline(text, answer)))
        click.echo(writable(_marked(text)))
        if text.cut_tokens:
            click.echo(writable(_cut_off(text, preview.max_length)))
        if not text.supervised and text.label is None:
            click.echo("  none of its tokens is supervised, so this text is dropped")
        click.echo()
    if not quiet:
        print_facts(_preview_facts(preview))


_DESIRABLE: dict[bool | None, str] = {True: "desirable", False: "undesirable"}


def _answers(preview: Preview) -> list[str | None]:
    """Return which answer of its row each text has; for a preference first the chosen one, then the rejected one."""
    if preview.shape != "preference":
        return [_DESIRABLE.get(text.desirable) for text in preview.rows]
    rows = [None, *(text.row for text in preview.rows)]
    return ["rejected" if row == before else "chosen" for before, row in itertools.pairwise(rows)]


def _headline(text: PreviewText, answer: str | None) -> str:
    about = [] if text.method is None else [f"method {text.method}"]
    of = [f"row {text.row} ({text.where})", *([] if answer is None else [answer])]
    return headline(of, about, tokens=text.tokens, learnt=text.supervised_tokens, stop=text.stop, label=text.label)


def headline(
    of: Sequence[str], about: Sequence[str], *, tokens: int, learnt: int, stop: str | None, label: str | None
) -> str:
    """Return the line above a text: which one it is, how long, how much of it is learnt, and where it stops."""
    counted = f"{tokens} tokens, {learnt} supervised" if label is None else f"{tokens} tokens"
    end = f"stop {plain(stop)}" if stop else "no stop" if label is None else f"label {plain(label)}"
    return writable(" · ".join([*map(plain, of), counted, *about, end]))


def _marked(text: PreviewText) -> str:
    parts, last = [], 0
    for start, end in text.supervised:
        parts += [lines(text.text[last:start]), marked_as_learnt(lines(text.text[start:end]))]
        last = end
    return "".join([*parts, lines(text.text[last:])])


def marked_as_learnt(text: str) -> str:
    """Return a text as that which is learnt: green on a terminal, else in double brackets."""
    if not sys.stdout.isatty():
        return f"{_BEGINS}{text}{_ENDS}"
    # Line by line: pagers, and terminals that scroll, forget the colour at the end of a line. Spaces show it as well.
    return "\n".join(click.style(line, fg="black", bg="green") if line else "" for line in text.split("\n"))


def _cut_off(text: PreviewText, max_length: int) -> str:
    said = plain(text.cut_text)
    shown = said if len(said) <= _MOST_CUT_CHARACTERS else said[:_MOST_CUT_CHARACTERS] + "…"
    return f"  cut off after {max_length} tokens, dropping {text.cut_tokens}: {shown}"


def _preview_facts(preview: Preview) -> list[tuple[str, str | None]]:
    rendering, totals, special = preview.rendering, preview.totals, _special_tokens(preview.had_special)
    if totals is None:
        whole = f"{preview.file_rows} rows, too many to check here: only those shown were checked"
    else:
        whole = (
            f"{preview.file_rows} rows, {totals.samples} texts, {totals.tokens} tokens, {totals.supervised_tokens} supervised; "
            f"{totals.rows_cut} rows truncated, {totals.rows_dropped} dropped"
        )
    left_out = (
        [("left out", f"{preview.left_out} more texts of these rows don't fit into a job's result")]
        if preview.left_out
        else []
    )
    if preview.labels:
        labels = ", ".join(map(plain, preview.labels))
        facts = [*_objective_fact(preview), ("loss on", preview.loss_on), ("labels", labels)]
        return [*facts, ("file", whole), *special, *left_out]
    return [
        *_objective_fact(preview),
        ("loss on", preview.loss_on),
        ("template", ", ".join(digest[:12] for digest in rendering.templates) or None),
        ("set in it", plain(said_in(preview.template or "")) or None),
        ("date in it", rendering.template_date),
        ("file", whole),
        *special,
        *left_out,
    ]


def _objective_fact(preview: Preview) -> list[tuple[str, str]]:
    """Name what a training on the rows learns, and what else it may be asked to."""
    if preview.objective is None:
        return []
    others = [
        name for name, traits in OBJECTIVES.items() if preview.shape in traits.shapes and name != preview.objective
    ]
    return [("objective", f"{preview.objective}; or {', '.join(others)}" if others else preview.objective)]


def lines(text: str) -> str:
    """Return untrusted text made safe for a terminal, keeping line ends and tabs."""
    return "".join(c if c in "\n\t" else plain(c) for c in text)


def bold(text: str) -> str:
    """Return a text in bold on a terminal."""
    return click.style(text, bold=True) if sys.stdout.isatty() else text
