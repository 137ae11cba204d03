"""A replayed probe on the screen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import click

from sdk.cli.support.columns import ListColumn, measured
from sdk.cli.support.listings import Listing
from sdk.cli.support.output import filled, is_piped, plain, print_one, render, say
from sdk.examining.probe_replay import require_equal
from sdk.schemas.probe import LogitsReplay, ProbeReplay
from sdk.schemas.probe_records import ProbeRecordView

#: How many modules a table shows: those that differ, then those that change most.
_MOST_MODULES = 10
#: What a pipe gets: a number a line.
_MEASURED = Listing(
    ListColumn("metric"),
    ListColumn("of"),
    measured("found"),
    ListColumn("recorded"),
    ListColumn("verdict"),
    key="metric",
)


def print_replay(
    found: ProbeReplay, style: str, *, record: Callable[[ProbeReplay], ProbeRecordView | None] | None = None
) -> None:
    """Print what was found, and have it recorded; raises VerificationFailed afterwards if it differs from the record."""
    draw = _print_numbers if is_piped() else _print_table
    print_one(style, {**found.model_dump(mode="json"), "ok": found.ok}, found.digest, lambda: draw(found))
    if record is not None:
        recorded = record(found)
        if recorded is None:
            say(f"recorded: what {found.ref} answers, by which engines are proved to serve it")
        else:
            verdict = "agrees with its record" if recorded.agrees else "differs from its record"
            say(f"recorded for {recorded.created_by}: the replay of {found.ref} {verdict}")
    require_equal(found)


def _print_numbers(found: ProbeReplay) -> None:
    """Print each number that was measured on a line of its own, for a program."""
    _MEASURED.print("table", [*_numbers(found)], empty="it changes no module")
    for note in found.notes:
        say(note)


def _numbers(found: ProbeReplay) -> Iterator[dict[str, Any]]:
    differing = {one.module: one for one in found.norms_differing}
    for module, norm in found.norms.items():
        one = differing.pop(module, None)
        verdict = None if not found.norms_stored else "same" if one is None else "differs"
        was = None if one is None else one.stored
        yield {"metric": "norm", "of": module, "found": norm, "recorded": was, "verdict": verdict}
    for module, one in differing.items():
        yield {"metric": "norm", "of": module, "found": one.found, "recorded": one.stored, "verdict": "differs"}
    if (logits := found.logits) is None:
        return
    recorded = logits.recorded.texts if logits.recorded is not None else []
    wrong = {(one.text, one.what) for one in logits.differing}
    for number, text in enumerate(logits.found.texts, start=1):
        for metric in ("tokens", "logit_gap", "kl"):
            verdict = None if not recorded else "differs" if (number, metric) in wrong else "same"
            was = getattr(recorded[number - 1], metric) if recorded else None
            now = getattr(text, metric)
            yield {"metric": metric, "of": f"text {number}", "found": now, "recorded": was, "verdict": verdict}


def _print_table(found: ProbeReplay) -> None:
    told = [norm for norm in found.norms.values() if norm is not None]
    against = "not compared with any" if not found.norms_stored else "as recorded"
    if found.norms_differing:
        against = f"{len(found.norms_differing)} not as recorded"
    click.echo(f"whole: {found.ref}, sha256:{found.digest}")
    click.echo(f"norms: {len(told)} of {len(found.norms)} modules, {against}")
    click.echo()
    click.echo(render(["module", "norm", "recorded"], _modules(found), cut=0))
    if found.replaced:
        click.echo(f"also replaced: {len(found.replaced)}, such as {plain(found.replaced[0])}")
    if found.logits is not None:
        click.echo()
        _print_logits(found.logits)
    for note in found.notes:
        click.echo(filled(note, "! "))


def _modules(found: ProbeReplay) -> list[list[Any]]:
    rows = [[one.module, one.found, one.stored] for one in found.norms_differing[:_MOST_MODULES]]
    named = {row[0] for row in rows}
    largest = sorted(found.norms.items(), key=lambda item: (-(item[1] or 0.0), item[0]))
    for module, norm in largest:
        if len(rows) < _MOST_MODULES and module not in named:
            rows.append([module, norm, ("same" if norm is not None else None) if found.norms_stored else None])
    if (left := len(found.norms) - len(rows)) > 0:
        rows.append([f"and {left} more", None, None])
    return rows


def _print_logits(logits: LogitsReplay) -> None:
    recorded = logits.recorded.texts if logits.recorded is not None else []
    wrong = {one.text for one in logits.differing}
    rows: list[list[Any]] = []
    for number, text in enumerate(logits.found.texts, start=1):
        was = recorded[number - 1] if recorded else None
        verdict = None if was is None else "differs" if number in wrong else "same"
        rows.append([number, text.tokens, text.logit_gap, was and was.logit_gap, text.kl, was and was.kl, verdict])
    click.echo(f"predictions on {len(rows)} fixed texts, in {logits.dtype} on {logits.device}:")
    click.echo(render(["text", "tokens", "gap", "recorded", "kl", "recorded", "verdict"], rows))
