"""What is wrong with rows, for people."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from sdk.cli.support.output import WIDTH, fit, plain, print_facts, render, writable

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
    "too_long": "rows that are too long, and would be cut",
}
#: Kinds whose detail is a sentence that says what to do.
_FAULTS = ("unusable", "held_out_unusable", "refused_by_base")
_MOST_SCRIPTS = 6
_BAR = 24


def print_audit(found: DataAudit, *, quiet: bool) -> None:
    """Print findings with their rows, then what all rows are; `quiet`: only the kinds that were found."""
    if quiet:
        for finding in found.findings:
            click.echo(finding.kind)
        return
    for finding in found.findings:
        click.echo(fit(f"{_SAID.get(finding.kind, finding.kind)}: {finding.rows}"))
        for example in _each_fault_once(finding.examples):
            click.echo(
                writable(_wrapped(_example(example)) if finding.kind in _FAULTS else fit(f"  {_example(example)}"))
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


def _wrapped(text: str) -> str:
    """Return a sentence on lines of its own, uncut: its end says what to do."""
    return textwrap.fill(plain(text), WIDTH, initial_indent="  ", subsequent_indent="    ")


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
        ("scripts", ", ".join(f"{script} {share:.1%}" for script, share in scripts) or None),
        *([] if found.complete else [("near", "not all candidates were compared: there may be more")]),
        *([] if found.tokens is None else [("tokens", _tokens(found.tokens))]),
    ]


def _tokens(counted: TokenCounts) -> str:
    sample = (
        "all rows"
        if counted.rows + counted.rows_refused == counted.of_rows
        else f"a sample of {counted.rows} of {counted.of_rows} rows"
    )
    return (
        f"{counted.tokens} in {sample}, {counted.supervised_tokens} learnt, the longest {counted.longest}; "
        f"cut at {counted.max_length}: {counted.rows_cut} rows, {counted.tokens_lost} tokens lost, "
        f"{counted.rows_dropped} rows dropped" + (f"; {counted.rows_split} texts split" if counted.rows_split else "")
    )


def _histogram(unit: str, lengths: Sequence[LengthBucket]) -> str:
    most = max((bucket.rows for bucket in lengths), default=1)
    rows = [[bucket.up_to, bucket.rows, "█" * round(_BAR * bucket.rows / most)] for bucket in lengths]
    return writable(render([f"{unit} up to", "rows", ""], rows))
