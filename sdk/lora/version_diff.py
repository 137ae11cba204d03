"""How two versions differ, from the registry's records and from their files.

>>> differing({"rank": 8, "alpha_pattern": {}}, {"rank": 16, "alpha_pattern": {"q_proj": 4.0}})
[Difference(name='rank', a=8, b=16), Difference(name='alpha_pattern.q_proj', a=None, b=4.0)]
>>> scored({"loss": 1.5}, {"loss": 1.25, "rouge_l": 0.5})
[Score(name='loss', a=1.5, b=1.25, difference=-0.25), Score(name='rouge_l', a=None, b=0.5, difference=None)]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from sdk.schemas.catalog import VersionView
from sdk.schemas.diff import (
    Diff,
    Difference,
    EvaluationBrief,
    EvaluationDiff,
    Score,
    ScoresDiff,
    Side,
)
from sdk.schemas.evaluation import MADE_OF_LOSS, EvaluationSpec, is_score
from sdk.schemas.scores import EvaluationView, warning
from sdk.schemas.training import OF_LOSS
from sdk.schemas.wire import digest_of


def compare_versions(
    a: VersionView, b: VersionView, evaluations_a: Sequence[EvaluationView], evaluations_b: Sequence[EvaluationView]
) -> Diff:
    """Compare the records of two versions; the weights are left out."""
    if a.digest == b.digest:
        return Diff(a=_side(a), b=_side(b), same=True)
    return Diff(
        a=_side(a),
        b=_side(b),
        same=False,
        notes=_notes(a, b)
        + _uncompared(evaluations_a, evaluations_b)
        + _trained_on(a.ref, evaluations_a)
        + _trained_on(b.ref, evaluations_b),
        configuration=differing(_configuration(a), _configuration(b)),
        training=differing(a.training or {}, b.training or {}),
        dataset=differing(_plain(a.dataset), _plain(b.dataset)),
        scores=_scores(a, b, evaluations_a, evaluations_b),
    )


def differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Difference]:
    """Return the values that differ, in the order in which their names first occur; nested ones by dotted names."""
    flat_a, flat_b = dict(_flat(a)), dict(_flat(b))
    names = dict.fromkeys([*flat_a, *flat_b])
    return [
        Difference(name=name, a=flat_a.get(name), b=flat_b.get(name))
        for name in names
        if flat_a.get(name) != flat_b.get(name)
    ]


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def scored(
    a: Mapping[str, float], b: Mapping[str, float], *, comparable: Callable[[str], bool] = lambda name: True
) -> list[Score]:
    """Return every metric of either side, with the difference if both have it and it is `comparable`."""
    return [
        Score(
            name=name,
            a=a.get(name),
            b=b.get(name),
            difference=b[name] - a[name] if name in a and name in b and comparable(name) else None,
        )
        for name in dict.fromkeys([*a, *b])
    ]


def _side(version: VersionView) -> Side:
    return Side(ref=version.ref, digest=version.digest, base=version.base.id)


def _plain(record: Any) -> dict[str, Any]:
    return {} if record is None else record.model_dump(mode="json")


def _configuration(version: VersionView) -> dict[str, Any]:
    return {
        "method": version.method,
        "base": _plain(version.base),
        "lora": _plain(version.lora),
        "quantization": _plain(version.quantization),
    }


def _notes(a: VersionView, b: VersionView) -> list[str]:
    notes = []
    if a.adapter != b.adapter:
        notes.append(f"{a.adapter} and {b.adapter} are different adapters")
    if a.base.weights_digest != b.base.weights_digest:
        notes.append(
            f"they have different bases, {a.base.id} and {b.base.id}: read each one's weights and scores "
            "against its own base"
        )
    elif a.base.fingerprint != b.base.fingerprint:
        notes.append(
            f"their bases have the same weights and differ in tokenizer, template or configuration: {a.base.id}"
        )
    return notes


def _scores(
    a: VersionView, b: VersionView, evaluations_a: Sequence[EvaluationView], evaluations_b: Sequence[EvaluationView]
) -> ScoresDiff:
    last_a, last_b = _last(evaluations_a), _last(evaluations_b)
    conditions = told_apart([*last_a.values(), *last_b.values()])
    return ScoresDiff(
        training=_training_scores(a, b),
        evaluations=[
            EvaluationDiff(
                dataset=one.dataset,
                grader=one.grader,
                precision=one.precision,
                condition=conditions[key],
                metrics=scored(
                    one.metrics, last_b[key].metrics, comparable=partial(_over_the_same_rows, one, last_b[key])
                ),
            )
            for key, one in last_a.items()
            if key in last_b
        ],
        only_a=[_brief(one, conditions[key]) for key, one in last_a.items() if key not in last_b],
        only_b=[_brief(one, conditions[key]) for key, one in last_b.items() if key not in last_a],
    )


def told_apart(evaluations: Sequence[EvaluationView]) -> dict[str, str]:
    """Say of each group of comparable evaluations, by its key, by which conditions it is told from the others on the same rows:
    by as few as do, the first ones first; nothing of one that is alone there.
    """
    groups = {one.key: one for one in evaluations}
    told = {}
    for key, one in groups.items():
        others = [other for other in groups.values() if other.dataset == one.dataset and other.key != key]
        named: list[str] = []
        for name in dict.fromkeys(name for other in others for name in one.unlike(other)):
            rest = [other for other in others if _condition(other, name) == _condition(one, name)]
            if len(rest) < len(others):
                named.append(f"{name} {_short(_condition(one, name))}")
                others = rest
        told[key] = ", ".join(named)
    return told


def _condition(one: EvaluationView, name: str) -> Any:
    return getattr(one, name) if name in ("grader", "precision") else one.conditions.get(name)


def _short(value: Any) -> str:
    """A condition in a few characters; what a dict has follows from other conditions, mostly."""
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    if isinstance(value, dict):
        return digest_of(value)[:6]
    text = "none" if value in (None, "") else str(value)
    return text[:12] if len(text) == 64 else text


def _over_the_same_rows(one: EvaluationView, other: EvaluationView, name: str) -> bool:
    return not is_score(name) or one.has_rows_of(other, name)


def _why(one: EvaluationView, other: EvaluationView) -> str:
    return "it failed on some" if one.has_as_many_rows(other) else "one has fewer rows"


def _last(evaluations: Sequence[EvaluationView]) -> dict[str, EvaluationView]:
    """The newest evaluation of each group that can be compared with one another."""
    return {one.key: one for one in sorted(evaluations, key=lambda one: one.created_at)}


#: Options that one job applies to all its targets.
_ASKED = {*EvaluationSpec.model_fields, "generated_rows"}


def _uncompared(evaluations_a: Sequence[EvaluationView], evaluations_b: Sequence[EvaluationView]) -> list[str]:
    """For each dataset on which both were scored, but never in the same way, say what differs; and which scores are
    over different rows.
    """
    last_a, last_b = _last(evaluations_a), _last(evaluations_b)
    failed = {
        f"{name} on {one.dataset[:12]} is over other rows in one than in the other, since {_why(one, last_b[key])}; compare the rows"
        f" that both have: adapterctl compare A B --data {one.dataset[:12]} --metric {'loss' if name in MADE_OF_LOSS else name}"
        for key, one in last_a.items()
        if key in last_b
        for name in one.metrics.keys() & last_b[key].metrics.keys()
        if not _over_the_same_rows(one, last_b[key], name)
    }
    alike = {last_a[key].dataset for key in last_a.keys() & last_b.keys()}
    notes = {}
    for one in last_a.values():
        for other in last_b.values():
            if one.dataset == other.dataset and one.dataset not in alike:
                names, rows = one.unlike(other), one.dataset[:12]
                # By default each adapter's base is loaded as in its training, which may differ between the two.
                how = " --precision native" if "precision" in names else ""
                again = (
                    f"; score both in one job: adapterctl eval A B --data {rows}{how}" if set(names) <= _ASKED else ""
                )
                notes[rows] = f"their scores on {rows} are not compared, since they differ in {', '.join(names)}{again}"
    return [*notes.values(), *sorted(failed)]


def _trained_on(ref: str, evaluations: Sequence[EvaluationView]) -> list[str]:
    """For each dataset on which a version was scored, say if it was trained on rows of it, or if that is unknown."""
    last = {one.dataset: one for one in sorted(evaluations, key=lambda one: one.created_at)}
    told = {one.dataset[:12]: warning(one.contamination, is_base=False) for one in last.values()}
    return [f"the scores of {ref} on {rows}: {words}" for rows, words in told.items() if words is not None]


def _training_scores(a: VersionView, b: VersionView) -> list[Score]:
    """The metrics that both trainings recorded; scores are subtracted only if they were measured in the same way on the
    same rows.
    """
    conditions = _conditions(a) == _conditions(b)
    # Rows held out of the training's own rows are known only by their digest.
    held_out = [version.record.eval_data or version.record.held_out_digest for version in (a, b)]
    trained_on = [
        None if version.dataset is None else (version.dataset.digest, version.record.training_digest)
        for version in (a, b)
    ]

    def comparable(name: str) -> bool:
        one, other = held_out if name.startswith("eval_") else trained_on
        return not is_score(name) or (conditions and one is not None and one == other)

    return scored(a.metrics, b.metrics, comparable=comparable)


def _conditions(version: VersionView) -> list[Any]:
    """What the losses of a training depend on besides the rows."""
    record = version.record
    rendering = None if version.dataset is None else version.dataset.rendering
    return [
        version.base.fingerprint,
        _plain(version.quantization),
        [getattr(record, name) for name in OF_LOSS],
        (record.rows_split, record.held_out_split),
        None if rendering is None else (rendering.templates, rendering.template_date),
    ]


def _brief(one: EvaluationView, condition: str) -> EvaluationBrief:
    return EvaluationBrief(
        id=one.id,
        dataset=one.dataset,
        grader=one.grader,
        precision=one.precision,
        condition=condition,
        metrics=one.metrics,
    )
