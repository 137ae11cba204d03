"""A sweep as sections of a report: what to take, each setting beside the best, and its members."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from registry.web.document import (
    NOTHING,
    WHEN,
    Block,
    Cell,
    CellTable,
    FactList,
    Foldout,
    Image,
    Section,
    Sentences,
    number,
    ref,
)
from sdk.errors import NotFound
from sdk.plotting.sweeps.panels import picture_of
from sdk.plotting.sweeps.settings import COSTS, Cost, SettingRow, between, name_of, rows_of, shown, with_error
from sdk.plotting.sweeps.svg import svg_of
from sdk.schemas.sweeps import SweepView


def sweep_sections(view: SweepView) -> list[Section]:
    """Return the sections, without curves."""
    verdict, choose = view.verdict, name_of(view.request.choose)
    facts = [
        ("Sweep", ref(view.id)),
        ("Adapter", Cell(view.adapter)),
        ("State", Cell(view.state.value)),
        ("Begun by", Cell(view.created_by)),
        ("Begun at", Cell(f"{view.created_at:{WHEN}} UTC")),
        ("Ended at", NOTHING if view.finished_at is None else Cell(f"{view.finished_at:{WHEN}} UTC")),
        ("Chosen by", Cell(choose)),
        ("Winner", NOTHING if view.winner is None else ref(view.ref or f"sweep:{view.id}/{view.winner}")),
    ]
    said = [] if verdict is None else [verdict.recommendation, *verdict.notes]
    said += [view.message] if view.message else []
    blocks: list[Block] = [FactList(facts)]
    if said:
        blocks.append(Sentences(said, "notice"))
    if verdict is not None and verdict.test:
        tested = ", ".join(f"{name} {value:.4g}" for name, value in verdict.test.items())
        blocks.append(Sentences([f"On rows by which nothing was chosen, the winner has {tested}."]))
    return [Section("Sweep", blocks), Section("Settings", _settings(view)), Section("Members", [_members(view)])]


def _settings(view: SweepView) -> list[Block]:
    rows, options = rows_of(view), list(view.request.settings)
    if not rows:
        return [Sentences(["No member has begun yet."])]
    score = name_of(view.request.choose)
    better = "" if view.verdict is None else f", {'less' if view.verdict.lower_is_better else 'more'} is better"
    units = [_unit(cost, rows) for cost in COSTS]
    names = [f"{cost.title}, {unit}" if unit else cost.title for cost, (unit, _) in zip(COSTS, units, strict=True)]
    heads = [*options, f"{score} ± standard error{better}", "Worse by", "Verdict", *names]
    lines = [
        [
            *(Cell(shown(row.setting.get(name))) for name in options),
            Cell(with_error(row.score, row.standard_error) or "–", "number"),
            Cell(between(row.low, row.high) or "–", "number"),
            Cell(row.outcome),
            *(_cost(cost, row, size) for cost, (_, size) in zip(COSTS, units, strict=True)),
        ]
        for row in rows
    ]
    blocks: list[Block] = [CellTable("Settings", [Cell(head) for head in heads], lines)]
    # There is none as long as no member has a score.
    with suppress(NotFound):
        blocks.append(Image(svg_of(picture_of(view)), f"{score} of each setting, by what it costs"))
    return blocks


def _unit(cost: Cost, rows: Sequence[SettingRow]) -> tuple[str, float]:
    """The largest unit in which no setting has less than one, or else the smallest."""
    least = min((value for row in rows if (value := cost.of(row)) is not None), default=0.0)
    fitting = [(name, size) for name, size in cost.units.items() if size <= least]
    return fitting[-1] if fitting else next(iter(cost.units.items()))


def _cost(cost: Cost, row: SettingRow, size: float) -> Cell:
    value = cost.of(row)
    if value is None:
        return number(None)
    amount = value / size
    return number(int(amount) if amount.is_integer() else amount, digits=4)


def _members(view: SweepView) -> Block:
    choose, options = view.request.choose, list(view.request.settings)
    heads = ["Member", *options, "Seed", name_of(choose), "State", "Job", "Version"]
    lines = [
        [
            ref(f"sweep:{view.id}/{member.number}"),
            *(Cell(shown(member.setting.get(name))) for name in options),
            Cell(str(member.seed), "number"),
            number(member.metrics.get(choose)),
            Cell(member.outcome or member.state, title=member.reason),
            ref(member.job) if member.job else NOTHING,
            NOTHING if member.ref is None else ref(member.ref),
        ]
        for member in view.members
    ]
    table = CellTable("Members", [Cell(head) for head in heads], lines)
    return Foldout(f"{len(lines)} members", [table]) if len(lines) > 12 else table
