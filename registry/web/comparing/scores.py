"""Scores in rows of what may be compared: one metric on one dataset, taken under the same conditions over the same rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sdk.schemas.evaluation import MADE_OF_LOSS, Better, better_is, is_of_tokens, is_score
from sdk.schemas.scores import EvaluationView

#: How many rows of scores are shown, and how many metrics of one evaluation are looked at.
_MOST_ROWS, _MOST_METRICS = 200, 60
#: The metrics that are read first.
_FIRST = ("loss", "accuracy", "rouge_l", "exact_match", "perplexity")
#: Conditions that a reader can do nothing with, since they are digests.
_DIGESTS = frozenset({"templates", "stop_ids", "tokenizer", "generation", "general_texts", "failed", "metrics"})


@dataclass(frozen=True)
class ScoreRow:
    """One metric on one dataset: the newest score of each that was taken alike."""

    dataset: str
    metric: str
    #: What scores share that may be compared.
    key: str
    #: Ref → the evaluation that has the score.
    of: Mapping[str, EvaluationView] = field(default_factory=dict)
    #: What tells it from other rows of the same metric on the same dataset; "": there are none.
    unlike: str = ""

    @property
    def better(self) -> Better | None:
        """Whether less or more is better; None: only its scorer knows."""
        return better_is(self.metric)

    @property
    def direction(self) -> str:
        """The same in words."""
        return f"{self.better} is better" if self.better else "its scorer knows what is better"

    def score(self, ref: str) -> float | None:
        """The score of one; None if it has none."""
        found = self.of.get(ref)
        return None if found is None else found.metrics[self.metric]


def score_rows(evaluations: Mapping[str, Sequence[EvaluationView]]) -> tuple[list[ScoreRow], list[str]]:
    """Return the rows of scores of what has these evaluations, each newest first, and notes on what is left out.

    A metric on the same dataset has several rows if it was taken under several conditions, or over other rows.
    """
    notes: list[str] = []
    rows: dict[tuple[str, str, str], dict[str, EvaluationView]] = {}
    for ref, found in evaluations.items():
        seen: set[tuple[str, str]] = set()
        for one in found:
            # The two keys of an evaluation are the same for all of its metrics.
            keys = {True: one.key, False: one.key_of("rouge_l")}
            names = _names(one)
            if len(names) < sum(map(is_score, one.metrics)):
                notes.append(f"of the scores {one.id}, only the first {_MOST_METRICS} metrics are shown")
            for name in names:
                key = keys[is_of_tokens(name)]
                # Newer scores under the same conditions replace older ones, whatever rows failed.
                if (name, key) not in seen:
                    seen.add((name, key))
                    rows.setdefault((one.dataset, name, f"{key}:{_rows_of(one, name)}"), {})[ref] = one
    ordered = sorted(rows, key=lambda row: (row[0], *_place(row[1]), -len(rows[row]), row[2]))
    if len(ordered) > _MOST_ROWS:
        notes.append(f"{len(ordered) - _MOST_ROWS} more rows of scores are left out; name fewer versions to see them")
    shown = [ScoreRow(*row, of=rows[row]) for row in ordered[:_MOST_ROWS]]
    return list(_told_apart(shown)), notes


def _names(one: EvaluationView) -> list[str]:
    return sorted((name for name in one.metrics if is_score(name)), key=_place)[:_MOST_METRICS]


def _place(metric: str) -> tuple[int, str]:
    return (_FIRST.index(metric) if metric in _FIRST else len(_FIRST), metric)


def _rows_of(one: EvaluationView, metric: str) -> str:
    """Which rows a mean is over, as far as is recorded."""
    rows = one.metrics.get("rows")
    count = "" if rows is None else f"{rows + one.metrics.get('failed_rows', 0.0):.0f}"
    failed = (one.conditions.get("failed") or {}).get("loss" if metric in MADE_OF_LOSS else metric, "")
    return f"{count}:{failed}"


def _told_apart(rows: Sequence[ScoreRow]) -> Iterator[ScoreRow]:
    """Yield rows, each with what tells it from the others of its metric and dataset."""
    alike: dict[tuple[str, str], list[ScoreRow]] = {}
    for row in rows:
        alike.setdefault((row.dataset, row.metric), []).append(row)
    for row in rows:
        others = alike[row.dataset, row.metric]
        yield row if len(others) == 1 else ScoreRow(row.dataset, row.metric, row.key, row.of, _unlike(row, others))


def _unlike(row: ScoreRow, others: Sequence[ScoreRow]) -> str:
    one = _any(row)
    names = list(dict.fromkeys(name for other in others for name in one.unlike(_any(other))))
    # Digests say only that something is different: they are named where nothing else tells the rows apart.
    readable = [name for name in names if name not in _DIGESTS]
    # How texts are generated hangs together: if one condition tells all rows apart, it says enough.
    alone = [name for name in readable if len({str(_condition(_any(other), name)) for other in others}) == len(others)]
    readable = alone[:1] or readable
    parts = []
    for name in readable or names:
        value = _condition(one, name)
        parts.append(f"other {name.replace('_', ' ')}" if name in _DIGESTS else f"{name} {str(value)[:40]}")
    if any(not one.has_rows_of(_any(other), row.metric) for other in others):
        rows = one.metrics.get("rows")
        parts.append("other rows" if rows is None else f"over {rows:.0f} rows")
    return ", ".join(parts)


def _condition(one: EvaluationView, name: str) -> Any:
    return getattr(one, name) if name in ("grader", "precision") else one.conditions.get(name)


def _any(row: ScoreRow) -> EvaluationView:
    return next(iter(row.of.values()))
