"""The rows of lists: what a table shows of a version, of a job, of scores, and of any other record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sdk.formats.html_tables import cell, page, sentence, table
from sdk.notebook.jobs import how_far
from sdk.schemas.catalog import VersionBrief
from sdk.schemas.jobs import JobView
from sdk.schemas.scores import EvaluationView, briefly
from sdk.schemas.sweeps import SweepView
from sdk.schemas.wire import Wire

#: The most columns of a record that has no row of its own here, and the most characters of a digest.
_MOST_COLUMNS, _DIGEST = 8, 12
#: The scores that come first, as far as there are such.
_FIRST_METRICS = ("eval_loss", "loss", "eval_accuracy", "exact_match", "rouge_l", "chrf")


def list_page(listed: Sequence[Any]) -> str:
    """Return a list as a table, or as a sentence if it is empty."""
    if not listed:
        return page(sentence("The list is empty."))
    rows = [row_of(one) for one in listed[:_MOST_SHOWN]]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    filled = [name for name in columns if any(row.get(name) not in (None, "", [], {}) for row in rows)]
    kind = type(listed[0]).__name__.removesuffix("View")
    count = "1 entry" if len(listed) == 1 else f"{len(listed)} entries"
    made = table(f"{kind}: {count}", filled, [[row.get(name) for name in filled] for row in rows])
    left = len(listed) - len(rows)
    more = sentence(
        f"The first {len(rows)} of {len(listed)} are shown; take a part of the list to see others, as in [{len(rows)}:]."
    )
    return page(made, more if left else "")


def row_of(one: Any) -> dict[str, object]:
    """Return what a table shows of a member of a list, by column."""
    # A version knows itself in brief; jobs and sweeps know what the registry last said.
    record = getattr(one, "brief", None) or getattr(one, "view", None) or one
    for kind, row in _ROWS.items():
        if isinstance(record, kind):
            return row(record)
    if isinstance(record, Wire):
        values = {name: getattr(record, name) for name in type(record).model_fields}
        plain = {name: value for name, value in values.items() if not isinstance(value, dict | Wire)}
        return {name: _brief(name, plain[name]) for name in list(plain)[:_MOST_COLUMNS]}
    if isinstance(record, dict):
        return {str(name): value for name, value in record.items()}
    return {"value": cell(record)}


#: No more rows are looked at than are shown.
_MOST_SHOWN = 50


def _brief(name: str, value: object) -> object:
    if isinstance(value, str) and len(value) == 64:
        return value[:_DIGEST]
    return value


def _version(brief: VersionBrief) -> dict[str, object]:
    return {
        "ref": brief.ref,
        "base": brief.base.id,
        "rank": brief.lora.rank,
        "method": "merged" if brief.kind == "merged" else brief.method,
        **first_metrics(brief.metrics),
        "aliases": brief.aliases,
        "tags": brief.tags,
        "created": brief.created_at,
    }


def _job(view: JobView) -> dict[str, object]:
    return {
        "id": view.id,
        "kind": view.kind,
        "subject": _briefly(view.subject.split()),
        "state": str(view.state),
        "progress": how_far(view),
        "reason": view.reason,
        "worker": view.worker,
        "created": view.created_at,
    }


def _briefly(names: Sequence[str]) -> str:
    """The first name, and how many more there are, as a terminal has them."""
    return " +".join([*names[:1], *([str(len(names) - 1)] if len(names) > 1 else [])])


def _evaluation(view: EvaluationView) -> dict[str, object]:
    return {
        "ref": view.ref,
        "dataset": view.dataset[:_DIGEST],
        **first_metrics(view.metrics, most=4),
        "rows": view.metrics.get("rows"),
        "seen": briefly(view.contamination),
        "id": view.id,
        "created": view.created_at,
    }


def _sweep(view: SweepView) -> dict[str, object]:
    return {
        "id": view.id,
        "adapter": view.adapter,
        "state": str(view.state),
        "members": sum(view.counts.values()) or len(view.members) or None,
        "winner": view.ref or view.winner,
        "created": view.created_at,
    }


_ROWS: dict[type[Wire], Callable[[Any], dict[str, object]]] = {
    VersionBrief: _version,
    JobView: _job,
    EvaluationView: _evaluation,
    SweepView: _sweep,
}


def first_metrics(metrics: dict[str, float], *, most: int = 2) -> dict[str, float]:
    """Return the scores that a person looks at first."""
    names = [name for name in _FIRST_METRICS if name in metrics]
    return {name: metrics[name] for name in names[:most]}
