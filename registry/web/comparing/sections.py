"""What is put side by side, as sections of a document: scores, curves, and how each was made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from registry.series.drawing import Drawing
from registry.web.comparing.scores import ScoreRow
from registry.web.comparing.service import ComparedSides
from registry.web.comparing.settings import ComparedSetting, setting_rows, settings_of
from registry.web.curves.pictures import picture_of_drawing
from registry.web.document import (
    NOTHING,
    WHEN,
    Block,
    Cell,
    CellTable,
    Drawn,
    FactList,
    Foldout,
    Section,
    Sentences,
    names,
    number,
    ref,
    turned,
)
from registry.web.rendering import page_of_ref
from sdk.schemas.scores import briefly

#: With more columns than this, each version is a line and not a column.
_MOST_COLUMNS = 5


class _Columns(NamedTuple):
    """What stands over the columns of a table of settings or scores."""

    heads: Sequence[Cell]
    refs: Sequence[str]


def versions_section(beside: ComparedSides) -> Section:
    """Return what each is, in a line."""
    rows = []
    for side in beside.sides:
        version = side.version
        if version is None:
            base = side.base
            rows.append(
                [ref(side.ref), NOTHING, Cell("bare base"), NOTHING, Cell("" if base is None else base.id), NOTHING]
            )
            continue
        rows.append(
            [
                ref(side.ref, page_of_ref(side.ref)),
                names(version.aliases),
                Cell(version.state),
                Cell(f"{version.created_at:{WHEN}}"),
                Cell(version.base.id),
                ref(version.digest[:12]),
            ]
        )
    headings = [Cell(name) for name in ("Version", "Aliases", "State", "Made, in UTC", "Base", "Digest")]
    return Section("Versions", [CellTable("Versions", headings, rows)])


def scores_section(beside: ComparedSides) -> Section:
    """Return the scores, of which one row or column is what may be compared."""
    if not beside.scores:
        refs = " ".join(side.ref for side in beside.sides[:3])
        none = f"None has scores yet. Score them with: adapterctl eval {refs} --data FILE"
        return Section("Scores", [Sentences([none, *beside.notes])])
    columns = _columns(beside)
    datasets = list(dict.fromkeys(row.dataset for row in beside.scores))
    blocks: list[Block] = []
    for dataset in datasets:
        are_lines = len(columns.refs) > _MOST_COLUMNS
        rows = [
            [*_named(row, with_direction=are_lines), *(_score(row, each) for each in columns.refs)]
            for row in beside.scores
            if row.dataset == dataset
        ]
        heads = [Cell("Score"), *([] if are_lines else [Cell("Direction")]), *columns.heads]
        label = f"On {beside.datasets[dataset]}"
        blocks += [
            Sentences([f"{label}:"]),
            _wide(label, heads, rows, columns),
        ]
    blocks.append(Foldout("Where these scores are from, and when they were taken", [_evaluations(beside)]))
    if beside.notes:
        blocks.append(Sentences(beside.notes))
    return Section("Scores", blocks)


def _named(row: ScoreRow, *, with_direction: bool) -> list[Cell]:
    """Return a score's name, and its direction beside it or in it."""
    name = f"{row.metric} ({row.unlike})" if row.unlike else row.metric
    return [Cell(f"{name}, {row.direction}")] if with_direction else [Cell(name), Cell(row.direction)]


def _score(row: ScoreRow, of: str) -> Cell:
    found = row.of.get(of)
    when = None if found is None else f"scores {found.id}, {found.created_at:{WHEN}} UTC"
    return number(row.score(of), when)


def _evaluations(beside: ComparedSides) -> CellTable:
    shown = {(one.id, ref_): one for row in beside.scores for ref_, one in row.of.items()}
    rows = [
        [
            ref(one.id),
            ref(ref_),
            Cell(beside.datasets[one.dataset]),
            Cell(f"{one.created_at:{WHEN}}"),
            Cell(one.namespace),
            Cell(one.precision),
            Cell(briefly(one.contamination)),
        ]
        for (_, ref_), one in shown.items()
    ]
    names = ("Scores", "Of", "On", "Taken, in UTC", "By jobs of", "Precision", "Rows seen in training")
    return CellTable("Where scores are from", [Cell(name) for name in names], rows)


def settings_section(beside: ComparedSides) -> Section:
    """Return how each was made: first what differs, then what all have in common."""
    versions = beside.versions
    if not versions:
        return Section("Configuration", [Sentences(["Bare bases have no configuration."])])
    rows = setting_rows({version.ref: settings_of(version, beside.datasets) for version in versions})
    if len(versions) == 1:
        (only,) = versions
        return Section("Configuration", [FactList([(row.name, Cell(row.values[only.ref])) for row in rows])])
    columns = _columns(beside, only=[version.ref for version in versions])
    differ, same = [row for row in rows if row.differs], [row for row in rows if not row.differs]
    blocks: list[Block] = []
    if differ:
        heads = [Cell("Setting"), *columns.heads]
        blocks.append(_wide("What differs", heads, [_setting(row, columns.refs) for row in differ], columns))
    else:
        blocks.append(Sentences(["No setting differs."]))
    if same:
        first = columns.refs[0]
        facts = FactList([(row.name, Cell(row.values[first])) for row in same])
        blocks.append(Foldout(f"What all have in common: {len(same)} settings", [facts]))
    return Section("Configuration", blocks)


def curves_section(drawing: Drawing) -> Section:
    """Return what the trainings measured, by step."""
    without = drawing.left_out
    blocks: list[Block] = [Drawn("Curves", drawing, picture_of_drawing(drawing))] if drawing.curves else []
    if without:
        some = ", ".join(without[:5]) + (f" and {len(without) - 5} more" if len(without) > 5 else "")
        blocks.append(Sentences([f"No curve is kept of {some}: only of trainings that this registry ran."]))
    return Section("Curves", blocks)


def _setting(row: ComparedSetting, refs: Sequence[str]) -> list[Cell]:
    return [Cell(row.name), *(Cell(row.values[one]) for one in refs)]


def _columns(beside: ComparedSides, only: Sequence[str] | None = None) -> _Columns:
    sides = [side for side in beside.sides if only is None or side.ref in only]
    heads = [ref(side.ref, None if side.version is None else page_of_ref(side.ref)) for side in sides]
    return _Columns(heads, [side.ref for side in sides])


def _wide(label: str, headings: Sequence[Cell], rows: Sequence[Sequence[Cell]], columns: _Columns) -> CellTable:
    """Return a table with a column for each version, or with a line for each if these are many."""
    return CellTable(label, headings, rows) if len(columns.refs) <= _MOST_COLUMNS else turned(label, headings, rows)
