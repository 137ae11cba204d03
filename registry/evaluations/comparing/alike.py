"""Which scores of several targets are compared: the newest that were taken alike, on the same rows.

No other place decides this: what has not one key is refused, with what differs by name.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from registry.errors import Conflict, Invalid, NotFound
from registry.evaluations.comparing.row_values import asking_for
from sdk.schemas.evaluation import SCORER_PREFIX, is_of_texts, is_scorer
from sdk.schemas.scores import EvaluationView

#: Datasets that a message names.
_NAMED = 4


@dataclass(frozen=True)
class Target:
    """What is compared, with all its scores that the caller may see."""

    #: "code-review@v3", or "base:ID".
    ref: str
    evaluations: Sequence[EvaluationView]


def scored_alike(targets: Sequence[Target], *, data: str | None, metric: str) -> list[EvaluationView]:
    """Return the evaluation of each target to compare, all of one key. `data` is a dataset's digest.

    Of those with rows and the metric the newest; by a metric of generated texts those that have it of most rows. Where
    none have the metric, the newest, whose rows say what they have. Raises NotFound for a target without scores, or scores
    without rows, Invalid where several datasets are meant, or a target alone lacks the metric, Conflict where no two were taken alike.
    """
    for target in targets:
        if not target.evaluations:
            raise NotFound(f"{target.ref} has no scores; {_score_all(targets, data)}", param="ref")
    dataset = _dataset(targets, data)
    on_these = [[one for one in target.evaluations if one.dataset == dataset] for target in targets]
    with_rows = [[one for one in found if one.rows_digest is not None] for found in on_these]
    if found := _alike([[one for one in some if metric in one.metrics] for some in with_rows]):
        return _over_one_base(targets, max(found, key=lambda some: (_generated(some, metric), _complete_at(some))))
    # Nothing can be compared. Where nobody has the metric, the rows say themselves what they have instead.
    if found := _alike(with_rows):
        _require_metric(targets, with_rows, metric)
        return _over_one_base(targets, max(found, key=_complete_at))
    if found := _alike(on_these):
        without = [one.ref for one in max(found, key=_complete_at) if one.rows_digest is None]
        raise NotFound(
            f"the scores of {' and '.join(without)} have no rows: they are of an earlier release, or the rows were removed; "
            f"{_score_all(targets, dataset)}"
        )
    raise Conflict(_unlike(targets, [max(found, key=lambda one: one.created_at) for found in on_these]))


def _require_metric(targets: Sequence[Target], with_rows: Sequence[Sequence[EvaluationView]], metric: str) -> None:
    """Raise Invalid where some targets alone have the metric, Conflict where all have it, and never alike."""
    having = [[one for one in found if metric in one.metrics] for found in with_rows]
    if all(having):
        raise Conflict(_unlike(targets, [max(found, key=lambda one: one.created_at) for found in having]))
    if any(having):
        lacking = [target.ref for target, found in zip(targets, having, strict=True) if not found]
        how = asking_for(metric) if is_of_texts(metric) else ""
        raise Invalid(
            f"no scores of {' and '.join(lacking)} on these rows have {metric}, or all rows failed; compare by another metric, or "
            f"{_score_all(targets, with_rows[0][0].dataset)}{how}",
            param="metric",
        )


def _alike(many: Sequence[Sequence[EvaluationView]]) -> list[list[EvaluationView]]:
    """Of the evaluations of each target, those that were taken alike, the newest of each key."""
    newest = [{one.key: one for one in sorted(found, key=lambda one: one.created_at)} for found in many]
    return [[found[key] for found in newest] for key in set.intersection(*map(set, newest))]


def _complete_at(alike: Sequence[EvaluationView]) -> datetime:
    return max(one.created_at for one in alike)


def _generated(alike: Sequence[EvaluationView], metric: str) -> int:
    """Of how many rows texts were generated, where the metric is one of texts."""
    count = alike[0].conditions.get("generated_rows")
    return count if is_of_texts(metric) and isinstance(count, int) else 0


def _dataset(targets: Sequence[Target], data: str | None) -> str:
    """The dataset on which all were scored."""
    on = [{one.dataset for one in target.evaluations} for target in targets]
    both = set.intersection(*on)
    if data is not None:
        for target, found in zip(targets, on, strict=True):
            if data not in found:
                raise NotFound(f"{target.ref} has no scores on {data[:12]}; {_score_all(targets, data)}", param="data")
        return data
    if not both:
        where = "; ".join(f"{target.ref} on {_names(found)}" for target, found in zip(targets, on, strict=True))
        raise Conflict(f"they were scored on different rows: {where}; {_score_all(targets, min(on[0]))}")
    if len(both) > 1:
        raise Invalid(f"they were scored on several datasets; choose one with --data: {_names(both)}", param="data")
    return both.pop()


def _names(datasets: Iterable[str]) -> str:
    found = sorted(one[:12] for one in datasets)
    return ", ".join(found[:_NAMED]) + (f" and {len(found) - _NAMED} more" if len(found) > _NAMED else "")


def _unlike(targets: Sequence[Target], found: Sequence[EvaluationView]) -> str:
    """Say of the last scores of each what keeps them from being compared."""
    names = dict.fromkeys(name for one, other in pairwise(found) for name in one.unlike(other))
    # By default each adapter's base is loaded as it was trained, which need not be the same.
    how = " --precision native" if "precision" in names else ""
    differ = f"they differ in {', '.join(names)}" if names else "what they depend on was not recorded"
    return f"these scores can't be compared, since {differ}; {_score_all(targets, found[0].dataset)}{how}{_as_before(found)}"


def _as_before(found: Sequence[EvaluationView]) -> str:
    """The options by which rows were read and texts scored."""
    columns = next((one.conditions.get("columns") for one in found if one.conditions.get("columns")), None)
    defined = [one.conditions.get("metrics") or {} for one in found]
    named = {name for one in found for name in one.metrics if is_of_texts(name) and not is_scorer(name)}
    metrics = sorted(named - {"regex"})
    scorers = {name.removeprefix(SCORER_PREFIX) for each in defined for name in each if is_scorer(name)}
    given = {
        "columns": columns,
        "metrics": "" if metrics == ["rouge_l"] else ",".join(metrics),
        "regex": next((each["regex"] for each in defined if "regex" in each), None),
        "scorers": ",".join(sorted(scorers)),
    }
    return "".join(f" --{option} {shlex.quote(str(value))}" for option, value in given.items() if value)


def _over_one_base(targets: Sequence[Target], found: list[EvaluationView]) -> list[EvaluationView]:
    for (target, one), (other_target, other) in pairwise(zip(targets, found, strict=True)):
        if one.base_fingerprint != other.base_fingerprint:
            raise Conflict(
                f"{target.ref} is over the base {one.base_fingerprint[:12]} and {other_target.ref} over "
                f"{other.base_fingerprint[:12]}, so that what differs may be the bases; compare versions over one base, "
                "or each with its own: adapterctl compare REF base:ID"
            )
    return found


def _score_all(targets: Sequence[Target], data: str | None) -> str:
    refs = " ".join(target.ref for target in targets)
    return f"score them in one job: adapterctl eval {refs} --data {'FILE' if data is None else data[:12]}"
