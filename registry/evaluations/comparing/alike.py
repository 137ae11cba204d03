"""Which scores of several targets are compared: the newest that were made under the same conditions, on the same rows.

Only this module decides it: scores with different keys are refused, and the error names what differs.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from registry.errors import Conflict, Invalid, NotFound
from registry.rows.comparing.row_values import asking_for
from sdk.schemas.evaluation import SCORER_PREFIX, is_of_texts, is_scorer
from sdk.schemas.scores import EvaluationView

#: How many datasets a message names.
_NAMED = 4


@dataclass(frozen=True)
class ScoredTarget:
    """What is compared, with all of its scores that count."""

    #: "code-review@v3", or "base:ID".
    ref: str
    evaluations: Sequence[EvaluationView]
    #: Which scores these are, for whoever may read others too, as the rest of "it has no scores".
    whose: str = ""


def scored_alike(targets: Sequence[ScoredTarget], *, data: str | None, metric: str) -> list[EvaluationView]:
    """Return the evaluation of each target to compare, all with the same key. `data` is a dataset's digest.

    These are the newest with rows and the metric; for a metric of generated texts, those that have it for the most
    rows. If none have the metric, they are the newest, whose rows say which metrics they have. Raises NotFound for a
    target without scores, or scores without rows, Invalid if several datasets could be meant, or only some targets have
    the metric, Conflict if no two have the same conditions.
    """
    for target in targets:
        if not target.evaluations:
            raise NotFound(f"{target.ref} has no scores{target.whose}; {_score_all(targets, data)}", param="ref")
    dataset = _dataset(targets, data)
    on_these = [[one for one in target.evaluations if one.dataset == dataset] for target in targets]
    with_rows = [[one for one in found if one.rows_digest is not None] for found in on_these]
    if found := _alike([[one for one in some if metric in one.metrics] for some in with_rows], metric):
        return _over_one_base(targets, max(found, key=lambda some: (_generated(some, metric), _complete_at(some))))
    # Nothing can be compared. If no target has the metric, the rows themselves say what they have instead.
    if found := _alike(with_rows, metric):
        _require_metric(targets, with_rows, metric)
        return _over_one_base(targets, max(found, key=_complete_at))
    if found := _alike(on_these, metric):
        without = [one.ref for one in max(found, key=_complete_at) if one.rows_digest is None]
        raise NotFound(
            f"the scores of {' and '.join(without)} have no rows: there was no room to store them, or they were removed; "
            f"{_score_all(targets, dataset)}"
        )
    raise Conflict(_unlike(targets, [max(found, key=lambda one: one.created_at) for found in on_these]))


def _require_metric(
    targets: Sequence[ScoredTarget], with_rows: Sequence[Sequence[EvaluationView]], metric: str
) -> None:
    """Raise Invalid if only some targets have the metric, Conflict if all have it, but under different conditions."""
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


def _alike(many: Sequence[Sequence[EvaluationView]], metric: str) -> list[list[EvaluationView]]:
    """The evaluations of each target whose key for a metric all targets have, the newest of each key."""
    newest = [{one.key_of(metric): one for one in sorted(found, key=lambda one: one.created_at)} for found in many]
    return [[found[key] for found in newest] for key in set.intersection(*map(set, newest))]


def _complete_at(alike: Sequence[EvaluationView]) -> datetime:
    return max(one.created_at for one in alike)


def _generated(alike: Sequence[EvaluationView], metric: str) -> int:
    """For how many rows texts were generated, if the metric is about texts."""
    count = alike[0].conditions.get("generated_rows")
    return count if is_of_texts(metric) and isinstance(count, int) else 0


def _dataset(targets: Sequence[ScoredTarget], data: str | None) -> str:
    """The dataset on which all targets were scored."""
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


def _unlike(targets: Sequence[ScoredTarget], found: Sequence[EvaluationView]) -> str:
    """Say why the last scores of each target can't be compared."""
    names = dict.fromkeys(name for one, other in pairwise(found) for name in one.unlike(other))
    # By default each adapter's base is loaded as in its training, which may differ.
    how = " --precision native" if "precision" in names else ""
    if [*names] == ["tokenizer"]:
        return (
            "losses per token can't be compared between these, since they have other tokens; compare by --metric bits_per_byte, or by "
            f"one of generated texts, such as --metric rouge_l, or {_score_all(targets, found[0].dataset)}{_as_before(found)}"
        )
    return f"these scores can't be compared, since they differ in {', '.join(names)}; {_score_all(targets, found[0].dataset)}{how}{_as_before(found)}"


def _as_before(found: Sequence[EvaluationView]) -> str:
    """The options with which rows were read and texts scored."""
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


def _over_one_base(targets: Sequence[ScoredTarget], found: list[EvaluationView]) -> list[EvaluationView]:
    for (target, one), (other_target, other) in pairwise(zip(targets, found, strict=True)):
        if one.base_fingerprint != other.base_fingerprint:
            raise Conflict(
                f"{target.ref} is over the base {one.base_fingerprint[:12]} and {other_target.ref} over "
                f"{other.base_fingerprint[:12]}, so that what differs may be the bases; compare versions over one base, "
                "or each with its own: adapterctl compare REF base:ID"
            )
    return found


def _score_all(targets: Sequence[ScoredTarget], data: str | None) -> str:
    refs = " ".join(target.ref for target in targets)
    return f"score them in one job: adapterctl eval {refs} --data {'FILE' if data is None else data[:12]}"
