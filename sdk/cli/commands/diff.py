"""`adapterctl diff`."""

from __future__ import annotations

from typing import Any

import click

from sdk.cli.completing.kinds import REF_OR_FOLDER
from sdk.cli.support.output import filled, format_option, print_one, render, say
from sdk.cli.support.session import open_client
from sdk.schemas.diff import Diff, Difference, Score, WeightsDiff
from sdk.schemas.evaluation import is_score

#: How many modules a table shows, those that differ most.
_MODULES = 20


@click.command(name="diff")
@click.argument("a", type=REF_OR_FOLDER)
@click.argument("b", type=REF_OR_FOLDER)
@click.option("--no-weights", is_flag=True, help="Don't compare weights, and fetch no files.")
@click.option("--all", "every", is_flag=True, help=f"Show all modules, not only the {_MODULES} that differ most.")
@format_option
def diff_command(a: str, b: str, no_weights: bool, every: bool, style: str) -> None:
    """Compare the versions A and B: configuration, training, data, scores, and the weights module by module.

    For weights it shows the norm of ΔW = s·B·A on both sides, and the cosine between the two.

    \b
    Examples:
      adapterctl diff code-review@v3 code-review@v4
      adapterctl diff code-review@v1 code-review --no-weights --format json
    """
    with open_client() as client:
        found = client.diff(a, b, weights=not no_weights)
    print_one(style, found, (one.name for one in _settings(found)), lambda: _print_table(found, every))


def _settings(found: Diff) -> list[Difference]:
    """Everything that differs except scores and weights, under distinct names."""
    training = [one.model_copy(update={"name": f"training.{one.name}"}) for one in found.training]
    dataset = [one.model_copy(update={"name": f"dataset.{one.name}"}) for one in found.dataset]
    return [*found.configuration, *training, *dataset]


def _print_table(found: Diff, every: bool) -> None:
    if found.same:
        click.echo(f"{found.a.ref} and {found.b.ref} are the same bytes, sha256:{found.a.digest}")
        return
    click.echo(f"a  {found.a.ref}\nb  {found.b.ref}")
    _print_notes(found.notes)
    settings = [_setting(one) for one in _settings(found)]
    click.echo()
    click.echo(render(["setting", "a", "b"], settings) if settings else "no setting differs")
    scores = [_score(f"training: {one.name}", one) for one in found.scores.training if is_score(one.name)]
    scores += _evaluated(found)
    click.echo()
    click.echo(render(["score", "a", "b", "difference"], scores) if scores else "neither has scores")
    if found.weights is not None:
        click.echo()
        _print_weights(found.weights, every)


def _setting(one: Difference) -> list[Any]:
    if isinstance(one.a, list) and isinstance(one.b, list):
        # Of two long lists, a table would show the same beginning.
        only_a = [value for value in one.a if value not in one.b]
        return [f"{one.name}, only in", only_a, [value for value in one.b if value not in one.a]]
    digits = 12 if one.name.endswith(("digest", "fingerprint")) else None
    return [one.name, *(value[:digits] if isinstance(value, str) else value for value in (one.a, one.b))]


def _score(name: str, one: Score) -> list[Any]:
    return [name, one.a, one.b, one.difference]


def _evaluated(found: Diff) -> list[list[Any]]:
    rows = []
    for both in found.scores.evaluations:
        label = f"{both.dataset[:12]}, {both.precision}"
        rows += [_score(f"{label}: {one.name}", one) for one in both.metrics if is_score(one.name)]
    for side, briefs in (("a", found.scores.only_a), ("b", found.scores.only_b)):
        for brief in briefs:
            label = f"{brief.dataset[:12]}, {brief.precision}"
            for name, value in brief.metrics.items():
                if is_score(name):
                    rows.append([f"{label}: {name}", *((value, None) if side == "a" else (None, value)), None])
    return rows


def _print_weights(weights: WeightsDiff, every: bool) -> None:
    modules = sorted(weights.modules, key=lambda one: (one.cosine is None, one.cosine or 0.0, one.module))
    shown = modules if every else modules[:_MODULES]
    rows: list[list[Any]] = [["whole adapter", weights.norm_a, weights.norm_b, weights.cosine]]
    rows += [[one.module, one.norm_a, one.norm_b, one.cosine] for one in shown]
    click.echo(render(["weights", "norm_a", "norm_b", "cosine"], rows))
    _print_notes(weights.notes)
    if len(shown) < len(modules):
        say(f"{len(modules) - len(shown)} more modules differ less; show them with --all")


def _print_notes(notes: list[str]) -> None:
    for note in notes:
        click.echo(filled(note, "! "))
