"""Which scores of some bytes count for a metric of a rule: the first complete ones that were made as the rule says.

Later ones are only looked at for whether they agree: whoever may score a version again and again must not choose among
what comes out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import inf
from typing import Any, NamedTuple

from sqlalchemy import func, select
from sqlalchemy.orm import Session, defer

from registry.db.stored_json import table
from registry.evaluations.models import Evaluation
from registry.evaluations.standing import of_version
from registry.principal import SYSTEM
from registry.promotion.makers import Makers
from sdk.schemas.evaluation import (
    BITS_PER_BYTE,
    COUNTED,
    LARGEST_SCORES,
    MADE_OF_LOSS,
    EvaluationSpec,
    is_of_texts,
    is_of_tokens,
)
from sdk.schemas.policies import RowsRule, seconds_of
from sdk.schemas.wire import digest_of

#: Of the scores of some bytes on a dataset, only the first are looked at.
MOST_READ = 1000
#: Later scores agree if they differ by a smaller share of the score, or of the largest that there can be: other machines
#: round otherwise, and an answer that begins otherwise goes on otherwise.
_ROUNDING, _TEXT_ROUNDING = 0.01, 0.02
#: What is asked of an evaluation that any score depends on, and what only those of answers do.
_PINNED, _PINNED_OF_TEXTS = (
    ("loss_on", "columns", "max_length", "precision"),
    ("generate_rows", "max_new_tokens", "max_thought_tokens"),
)
#: Conditions that are no part of how a score was measured: an outcome, and texts that another rule is about.
_NOT_MEASURED = ("failed", "general_texts")
#: Conditions that belong to the version and its base: whoever uses these gets them, too. Only a loss per token is another
#: number with other ones.
_OF_THE_VERSION = (
    *("tokenizer", "stop_ids", "templates", "special_tokens", "generation", "prompt_tokens"),
    *("quantization", "dtype", "max_length"),
)
#: Scores of choices are compared whatever the tokens; see `is_of_tokens`.
_OF_CHOICES = frozenset({"accuracy", "macro_f1", "acc", "acc_norm", "acc_bytes"})
#: Only how answers were made.
_OF_ANSWERS = ("generated_rows", "max_new_tokens", "max_thought_tokens", "template_date")


@dataclass(frozen=True)
class ScoreRecord:
    """One record of scores."""

    id: str
    at: datetime
    grader: str
    precision: str
    #: As it was asked for, with the conditions.
    spec: Mapping[str, Any]
    metrics: Mapping[str, float]
    has_rows: bool
    scored_by: str | None
    scored_by_name: str | None

    @property
    def conditions(self) -> dict[str, Any]:
        """What the scores depend on."""
        return table(self.spec.get("conditions"))

    def measured_as(self, metric: str) -> str:
        """A digest that two records share whose scores by a metric can be compared."""
        conditions = {name: value for name, value in self.conditions.items() if name not in _NOT_MEASURED}
        if is_of_tokens(metric) and metric not in _OF_CHOICES:
            return digest_of([self.grader, self.precision, conditions])
        left_out = {*_OF_THE_VERSION, *(() if is_of_texts(metric) else _OF_ANSWERS)}
        return digest_of({name: value for name, value in conditions.items() if name not in left_out})

    def rows_of(self, metric: str) -> float | None:
        """How many rows have the score, as far as that is recorded."""
        of_texts = "generated_rows" if is_of_texts(metric) else "rows"
        return self.metrics.get(f"{metric}{COUNTED}", self.metrics.get(of_texts))

    def is_complete(self, metric: str) -> bool:
        """Whether each row that could have the score has one: rows on which it fails could be those that it is bad on."""
        made_of = "loss" if metric in MADE_OF_LOSS else metric
        failed = table(self.conditions.get("failed"))
        of_loss = not is_of_texts(metric) and metric not in _OF_CHOICES
        return metric in self.metrics and made_of not in failed and not (of_loss and self.metrics.get("failed_rows"))


class Terms(NamedTuple):
    """Which scores a rule takes."""

    rule: RowsRule
    #: With `scored_by: other_worker`, the scores of these don't count.
    makers: Makers
    #: The database's clock, in seconds since 1970.
    now_s: float

    @property
    def not_before(self) -> datetime | None:
        """Older scores don't count."""
        if self.rule.max_age is None:
            return None
        return datetime.fromtimestamp(self.now_s - seconds_of(self.rule.max_age), UTC)

    def however_old(self) -> Terms:
        """The same without an age."""
        return self._replace(rule=self.rule.model_copy(update={"max_age": None}))

    def by_anybody(self) -> Terms:
        """The same, whoever has scored it."""
        return self._replace(rule=self.rule.model_copy(update={"scored_by": "any"}))


@dataclass(frozen=True)
class Counted:
    """The scores of some bytes that count for a metric of a rule."""

    metric: str
    #: Oldest first.
    complete: Sequence[ScoreRecord]
    #: Why there are none, as the rest of a sentence about the version.
    lacks: str | None = None
    #: Whether scoring it again could change that.
    is_missing: bool = False
    #: As `Gathered.until_s`.
    until_s: float = inf

    @property
    def first(self) -> ScoreRecord | None:
        """The scores that count."""
        return next(iter(self.complete), None)

    @property
    def value(self) -> float | None:
        """What they say."""
        return None if self.first is None else self.first.metrics[self.metric]

    def alike(self, measured_as: str) -> list[ScoreRecord]:
        """Those that were measured in the same way, oldest first."""
        return [one for one in self.complete if one.measured_as(self.metric) == measured_as]

    def ways(self) -> list[str]:
        """In which ways it was measured, in the order of the first of each."""
        return list(dict.fromkeys(one.measured_as(self.metric) for one in self.complete))

    def identity(self) -> list[Any]:
        """What differs whenever others count."""
        return [[one.id, one.has_rows] for one in self.complete] + ([self.lacks] if self.lacks else [])


def read_scores(
    session: Session,
    digests: Collection[str],
    *,
    namespace: str,
    dataset: str,
    most: int = MOST_READ,
    in_all: int | None = None,
) -> dict[str, list[ScoreRecord]]:
    """Return the first scores of some bytes on a dataset that count for versions of a namespace, oldest first: at most so many
    of each, and `in_all`.
    """
    place = func.row_number().over(partition_by=Evaluation.digest, order_by=(Evaluation.created_at, Evaluation.id))
    counting = of_version(Evaluation, SYSTEM, digest=Evaluation.digest, namespace=namespace)
    numbered = select(Evaluation.id, place.label("place")).where(
        counting, Evaluation.digest.in_(sorted(digests)), Evaluation.dataset_digest == dataset
    )
    first = numbered.subquery()
    query = select(Evaluation).join(first, first.c.id == Evaluation.id).where(first.c.place <= most)
    # Samples may be long.
    query = query.options(defer(Evaluation.samples), defer(Evaluation.libraries), defer(Evaluation.contamination))
    query = query.order_by(Evaluation.created_at, Evaluation.id).limit(in_all)
    found: dict[str, list[ScoreRecord]] = {digest: [] for digest in digests}
    for row in session.scalars(query):
        found[row.digest or ""].append(_scored(row))
    return found


def _scored(row: Evaluation) -> ScoreRecord:
    metrics = {name: value for name, value in table(row.metrics).items() if isinstance(value, int | float)}
    return ScoreRecord(
        id=row.id,
        at=row.created_at,
        grader=row.grader,
        precision=row.precision,
        spec=table(row.spec),
        metrics=metrics,
        has_rows=row.rows_digest is not None and row.rows_removed_at is None,
        scored_by=row.scored_by,
        scored_by_name=row.scored_by_name,
    )


def count(scores: Sequence[ScoreRecord], metric: str, terms: Terms) -> Counted:
    """Return which of the scores of some bytes, oldest first, count for a metric; or why none do."""
    rule = terms.rule
    pinned = [one for one in scores if metric in one.metrics or metric in table(one.conditions.get("failed"))]
    pinned = [one for one in pinned if _is_pinned(one, rule, metric)]
    if not pinned:
        other = " in the way that the policy asks for" if scores else ""
        return Counted(metric, (), f"has no {metric}{other}", is_missing=True)
    fresh = [one for one in pinned if terms.not_before is None or one.at >= terms.not_before]
    if not fresh:
        return Counted(metric, (), f"has no {metric} that is not older than {rule.max_age}", is_missing=True)
    by_others = [one for one in fresh if rule.scored_by == "any" or _is_by_another(one, terms.makers)]
    if not by_others:
        who = "by a token that neither trained nor pushed it"
        return Counted(metric, (), f"has no {metric} that was scored {who}", is_missing=True)
    complete = [one for one in by_others if one.is_complete(metric)]
    if not complete:
        return Counted(metric, (), f"has no {metric} of all rows, see: adapterctl evals show {by_others[0].id}")
    until_s = inf if rule.max_age is None else min(one.at for one in complete).timestamp() + seconds_of(rule.max_age)
    return Counted(metric, complete, until_s=until_s)


def _is_by_another(one: ScoreRecord, makers: Makers) -> bool:
    """Whether somebody scored it who didn't make the version; where nobody knows who it was, it could be them."""
    return one.scored_by_name is not None and not makers.include(one.scored_by, one.scored_by_name)


def _is_pinned(one: ScoreRecord, rule: RowsRule, metric: str) -> bool:
    """Whether scores were asked for as the rule says, in all that the metric depends on."""
    if rule.grader not in (None, one.grader):
        return False
    asked = rule.evaluation
    names = [*_PINNED, *(_PINNED_OF_TEXTS if is_of_texts(metric) else ()), *(["regex"] if metric == "regex" else [])]
    if all(_asked(one.spec, name) == getattr(asked, name) for name in names):
        return True
    # Which tokens were learnt from may have followed from the rows' shape.
    names.remove("loss_on")
    same = asked.loss_on is not None and one.conditions.get("loss_on") == asked.loss_on
    return same and all(_asked(one.spec, name) == getattr(asked, name) for name in names)


def _asked(spec: Mapping[str, Any], name: str) -> Any:
    return spec.get(name, EvaluationSpec.model_fields[name].get_default())


def disagreement(counted: Sequence[ScoreRecord], metric: str) -> str | None:
    """Say that later scores, measured in the same way, differ by more than rounding from the first; None if none do."""
    first = counted[0]
    value = first.metrics[metric]
    for later in counted[1:]:
        other = later.metrics[metric]
        if abs(other - value) > _rounding(metric, value):
            return (
                f"its scores {first.id} say {value:.6g} and {later.id} say {other:.6g}, which is more than rounding; see what differs: "
                f"adapterctl evals show {later.id} --rows"
            )
    return None


def _rounding(metric: str, value: float) -> float:
    if metric in MADE_OF_LOSS or metric in ("loss", BITS_PER_BYTE):
        return _ROUNDING * max(1.0, abs(value))
    return _TEXT_ROUNDING * (LARGEST_SCORES.get(metric) or max(1.0, abs(value)))
