"""What rows say about versions against one of them: which are compared, by what, and the answer as sections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from registry.catalog.bases.names import ANYBODYS, Whose
from registry.errors import Invalid, RegistryError
from registry.evaluations.comparing.service import Comparisons, ToFirstQuery
from registry.principal import Principal
from registry.rows.comparing.row_values import LOSS
from registry.web.comparing.scores import ScoreRow
from registry.web.comparing.service import ComparedSides
from registry.web.document import Block, Cell, CellTable, Section, Sentences, TextParts, number, part, ref
from sdk.schemas.scores import MOST_AGAINST_ONE, ChangedRow, ComparedPair, Comparison


@dataclass(frozen=True)
class RowQuestion:
    """How rows are to be compared."""

    #: The one that all others are compared with; None: the first.
    against: str | None = None
    metric: str | None = None
    #: The dataset's digest; None: the one on which most were scored.
    data: str | None = None
    by: str | None = None
    detect: float | None = None
    #: How many rows are shown, those that changed most.
    rows: int = 0
    scores_of: str | None = None
    whose: Whose = ANYBODYS


@dataclass(frozen=True)
class RowVerdicts:
    """What came of it."""

    #: None: nothing could be compared.
    comparison: Comparison | None
    #: Why not, or what was left out.
    notes: Sequence[str] = ()


def row_to_judge_by(beside: ComparedSides, question: RowQuestion) -> ScoreRow | None:
    """Return the row of scores by which rows are compared: of the metric and dataset that are asked for, in which the one that
    others are compared with has a score that has rows, the one that most have. None if there is none.
    """
    first = question.against or beside.sides[0].ref
    metric = question.metric or LOSS
    fitting = [
        row
        for row in beside.scores
        if row.metric == metric
        and (question.data is None or row.dataset == question.data)
        and (own := row.of.get(first)) is not None
        and own.rows_digest is not None
    ]
    return max(fitting, key=lambda row: (len(_with_rows(row)), _newest(row)), default=None)


def _with_rows(row: ScoreRow) -> list[str]:
    return [one for one, found in row.of.items() if found.rows_digest is not None]


def _newest(row: ScoreRow) -> str:
    return max(found.created_at.isoformat() for found in row.of.values())


def judge(comparisons: Comparisons, beside: ComparedSides, question: RowQuestion, *, who: Principal) -> RowVerdicts:
    """Compare the rows of the others with those of one. What can't be compared is said, and is not an error; Unavailable is raised."""
    refs = [side.ref for side in beside.sides]
    first = question.against or refs[0]
    if first not in refs:
        raise Invalid(f"{first} is not among what is compared; name it too", param="against")
    row = row_to_judge_by(beside, question)
    if row is None:
        metric = question.metric or LOSS
        return RowVerdicts(
            None,
            [
                f"{first} has no scores by row of {metric} that others could be compared with; score all in one job: adapterctl eval "
                f"{' '.join(refs[:3])}{' …' if len(refs) > 3 else ''} --data FILE"
            ],
        )
    alike = [one for one in refs if one in _with_rows(row) and one != first]
    chosen = alike[:MOST_AGAINST_ONE]
    notes = []
    if len(alike) > len(chosen):
        notes.append(
            f"only {len(chosen)} are compared at once; {len(alike) - len(chosen)} more were scored in the same way: name fewer"
        )
    if others := [one for one in refs if one != first and one not in alike]:
        some = ", ".join(others[:4]) + (f" and {len(others) - 4} more" if len(others) > 4 else "")
        notes.append(
            f"not compared, since they have no scores by row that were taken in the same way as those of {first}: {some}"
        )
    if not chosen:
        return RowVerdicts(None, notes or [f"there is nothing to compare with {first}; name another version too"])
    # A base is named by its fingerprint, since its id may mean another one elsewhere.
    exact = {side.ref: side.ref if side.base is None else f"base:{side.base.fingerprint}" for side in beside.sides}
    asked = ToFirstQuery(
        ref=[exact[one] for one in (first, *chosen)],
        metric=question.metric,
        data=row.dataset,
        by=question.by,
        examples=question.rows,
        detect=question.detect,
        scores_of=question.scores_of,
        base_namespace=question.whose.namespace,
        published=question.whose.published,
    )
    try:
        return RowVerdicts(comparisons.compare(asked, who=who), notes)
    except RegistryError as error:
        if error.status >= 500:
            raise
        return RowVerdicts(None, [*notes, f"the rows can't be compared: {error.message}"])


def verdict_section(beside: ComparedSides, verdicts: RowVerdicts) -> Section:
    """Return the verdicts."""
    found = verdicts.comparison
    if found is None:
        return Section("Verdicts", [Sentences(verdicts.notes)])
    first = found.refs[0]
    better = "less" if found.lower_is_better else "more"
    counted = (
        f"{found.rows:,} rows"
        if found.groups is None
        else f"{found.rows:,} rows in {found.groups:,} groups by {found.by}"
    )
    headings = [
        "Version",
        found.metric,
        f"Difference from {first}",
        "95 % interval",
        "p",
        "Can show",
        "Rows needed",
        "Verdict",
    ]
    cells = {one.ref: number(one.score, f"scores {one.evaluation}") for one in found.scores}
    rows = [[ref(first), cells[first], *[Cell("–", "number")] * 5, Cell("the others are compared with it")]]
    rows += [_pair(pair, cells[pair.b]) for pair in found.pairs]
    blocks: list[Block] = [
        Sentences(
            [
                f"{found.metric} on {beside.datasets[found.dataset]}, {counted} that all of them have: {better} is better. "
                + (
                    "p is corrected for all comparisons with " + first
                    if len(found.pairs) > 1
                    else "A difference is that of the means"
                )
                + "; a verdict needs p below 0.05."
            ]
        ),
        CellTable("Verdicts", [Cell(name) for name in headings], rows),
    ]
    by = ", ".join(f"{one.evaluation} of {one.ref}" for one in found.scores)
    blocks.append(Sentences([*found.notes, *verdicts.notes, f"By the scores {by}."]))
    return Section("Verdicts", blocks)


def changed_rows(verdicts: RowVerdicts) -> list[Section]:
    """Return the rows that changed most, if any are to be shown."""
    found = verdicts.comparison
    if found is None or not found.examples:
        return []
    return [Section("Rows that changed most", [_changed(row, found) for row in found.examples])]


def _pair(pair: ComparedPair, score: Cell) -> list[Cell]:
    interval = "–" if pair.low is None or pair.high is None else f"{pair.low:.4g} … {pair.high:.4g}"
    return [
        ref(pair.b),
        score,
        number(pair.difference),
        Cell(interval, "number"),
        number(pair.p_adjusted, digits=2),
        number(pair.detectable),
        number(pair.rows_needed),
        Cell(pair.verdict),
    ]


def _changed(row: ChangedRow, found: Comparison) -> TextParts:
    parts = [] if row.prompt is None else [part("Prompt", row.prompt)]
    parts += [] if row.reference is None else [part("Expected", row.reference)]
    for name, score, prediction in zip(found.refs, row.scores, row.predictions, strict=True):
        parts.append(part(f"{name}: {found.metric} {score:.4g}", prediction))
    return TextParts(f"Row {row.row}", parts)
