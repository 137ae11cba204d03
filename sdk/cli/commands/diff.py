"""`adapterctl diff`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from sdk.cli.completing.kinds import REF_OR_FOLDER
from sdk.cli.support.columns import CellForm, ListColumn, measured
from sdk.cli.support.dataset_names import ShownDatasets
from sdk.cli.support.listings import Listing
from sdk.cli.support.output import format_option, is_piped, print_one, say
from sdk.cli.support.records import print_facts, print_gap, print_listing, print_remark
from sdk.cli.support.session import open_client
from sdk.schemas.diff import Diff, Difference, Score, WeightsDiff
from sdk.schemas.evaluation import is_score
from sdk.schemas.score_order import better_of, direction, in_order_asked, of_training

_SCORES = Listing(
    ListColumn("score"),
    ListColumn("of", importance=5),
    ListColumn("condition", importance=4),
    measured("a"),
    measured("b"),
    measured("difference", importance=7),
    ListColumn("better", importance=6),
    ListColumn("winner", importance=8),
    key="score",
)
#: The scores of one evaluation, under a line that says of which.
_SCORES_ALIKE = Listing(
    *(column for column in _SCORES.columns if column.header not in ("of", "condition")), key="score"
)
_DIFFERENCES = Listing(
    ListColumn("setting"), ListColumn("a", form=CellForm.PROSE), ListColumn("b", form=CellForm.PROSE), key="setting"
)
_WEIGHTS = Listing(
    ListColumn("module", form=CellForm.PROSE), measured("norm_a"), measured("norm_b"), measured("cosine"), key="module"
)
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
        names = ShownDatasets(client, _datasets(found) if style == "table" else ())
    print_one(style, found, (one.name for one in _settings(found)), lambda: _print(found, every, names))


def _datasets(found: Diff) -> Iterator[str]:
    """Yield the digests of all datasets that are named in it."""
    yield from (one.dataset for one in found.scores.evaluations)
    yield from (one.dataset for one in (*found.scores.only_a, *found.scores.only_b))
    for one in (*found.training, *found.dataset):
        if one.name.endswith(("digest", "eval_data")):
            yield from (value for value in (one.a, one.b) if isinstance(value, str))


def _settings(found: Diff) -> list[Difference]:
    """Everything that differs except scores and weights, under distinct names."""
    training = [one.model_copy(update={"name": f"training.{one.name}"}) for one in found.training]
    dataset = [one.model_copy(update={"name": f"dataset.{one.name}"}) for one in found.dataset]
    return [*found.configuration, *training, *dataset]


def _print(found: Diff, every: bool, names: ShownDatasets) -> None:
    print_facts([("a", found.a.ref), ("b", found.b.ref)])
    if found.same:
        print_remark(f"both are the same bytes, sha256:{found.a.digest}")
        return
    for note in found.notes:
        print_remark(names.in_text(note), "! ")
    scores = _evaluated(found, names)
    scores += [_score(one, "training") for one in found.scores.training if is_score(one.name)]
    _print_scores(scores)
    settings = [_setting(one, names) for one in _settings(found)]
    _print_part("settings", _DIFFERENCES, settings, "no setting differs")
    if found.weights is not None:
        _print_weights(found.weights, every)


def _print_scores(scores: list[dict[str, Any]]) -> None:
    """Print scores, for people those of each evaluation by themselves: several have a loss on the same rows."""
    if is_piped() or not scores:
        _print_part("scores", _SCORES, scores, "neither has scores")
        return
    for of, condition in dict.fromkeys((one["of"], one["condition"]) for one in scores):
        group = [one for one in scores if (one["of"], one["condition"]) == (of, condition)]
        print_gap()
        print_remark("in training" if of == "training" else f"on {of}" + (f", with {condition}" if condition else ""))
        print_listing("scores", _SCORES_ALIKE, group)


def _print_part(name: str, listing: Listing, rows: list[dict[str, Any]], none: str) -> None:
    print_gap()
    if rows:
        print_listing(name, listing, rows)
    else:
        print_remark(none)


def _setting(one: Difference, names: ShownDatasets) -> dict[str, Any]:
    if isinstance(one.a, list) and isinstance(one.b, list):
        # Of two long lists, a table would show the same beginning.
        only_a = [value for value in one.a if value not in one.b]
        only_b = [value for value in one.b if value not in one.a]
        return {"setting": f"{one.name}, only in", "a": only_a, "b": only_b}
    return {"setting": one.name, "a": _named(one, one.a, names), "b": _named(one, one.b, names)}


def _named(one: Difference, value: Any, names: ShownDatasets) -> Any:
    if not isinstance(value, str) or not one.name.endswith(("digest", "fingerprint", "eval_data")):
        return value
    return names.of(value)


def _score(one: Score, of: str, condition: str = "") -> dict[str, Any]:
    metric = of_training(one.name)
    winner = better_of(metric, one.a, one.b) if one.difference is not None else None
    values = {"a": one.a, "b": one.b, "difference": one.difference, "better": direction(metric), "winner": winner}
    return {"score": one.name, "of": of, "condition": condition, **values}


def _evaluated(found: Diff, names: ShownDatasets) -> list[dict[str, Any]]:
    rows = []
    for both in found.scores.evaluations:
        by_name = {one.name: one for one in both.metrics if is_score(one.name)}
        rows += [_score(by_name[name], names.of(both.dataset), both.condition) for name in in_order_asked(by_name)]
    for side, briefs in (("a", found.scores.only_a), ("b", found.scores.only_b)):
        for brief in briefs:
            for name in in_order_asked(name for name in brief.metrics if is_score(name)):
                one = {"score": name, "of": names.of(brief.dataset), "condition": brief.condition}
                sides = {"a": None, "b": None, "difference": None, side: brief.metrics[name]}
                rows.append({**one, **sides, "better": direction(name), "winner": None})
    return rows


def _print_weights(weights: WeightsDiff, every: bool) -> None:
    modules = sorted(weights.modules, key=lambda one: (one.cosine is None, one.cosine or 0.0, one.module))
    shown = modules if every or is_piped() else modules[:_MODULES]
    rows: list[dict[str, Any]] = [
        {"module": "whole adapter", "norm_a": weights.norm_a, "norm_b": weights.norm_b, "cosine": weights.cosine}
    ]
    rows += [one.model_dump() for one in shown]
    print_gap()
    print_listing("weights", _WEIGHTS, rows)
    for note in weights.notes:
        print_remark(note, "! ")
    if len(shown) < len(modules):
        say(f"{len(modules) - len(shown)} more modules differ less; show them with --all")
