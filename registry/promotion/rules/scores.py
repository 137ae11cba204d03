"""The rules over rows: what scores on a dataset must be at least, at most, or not worse than those of other versions."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, cast

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.catalog.models import Version
from registry.datasets.models import Dataset
from registry.promotion.makers import Makers, makers_of_all
from registry.promotion.question import Bench, JudgingNeededError, Question, StandingPolicy
from registry.promotion.rules.asked_scores import AskedMetric, AskedRows, ComparedVersion
from registry.promotion.rules.chosen import choosers_of
from registry.promotion.rules.counting import Counted, ScoreRecord, Terms, count, read_scores
from registry.promotion.rules.references import Reference, incumbent, numbered, passed, together
from registry.promotion.rules.scores_judging import Judging
from registry.promotion.tries import tried_of
from sdk.schemas.decisions import RuleOutcome
from sdk.schemas.evaluation import (
    SCORER_PREFIX,
    EvaluationSpec,
    TextMetric,
    better_is,
    is_of_texts,
    is_scorer,
)
from sdk.schemas.job_requests import MOST_TARGETS, EvaluationRequest, EvaluationTarget
from sdk.schemas.policies import MetricRule, RowsRule

#: Of the scores of a version that one is compared with, only the first are looked at.
_MOST_READ = 200


@dataclass(frozen=True)
class GatheredScores:
    """What the rules over rows of a policy are judged by."""

    question: Question
    policy: StandingPolicy
    rows: Sequence[AskedRows]

    @property
    def identity(self) -> Any:
        """The records that count for each rule, what chose the version, and how many were tried on which rows."""
        return [one.identity() for one in self.rows]

    @property
    def missing(self) -> Sequence[EvaluationRequest]:
        """The scores that nobody has made, one request for each rule over rows."""
        requests = (missing_of(one) for one in self.rows)
        return [request for request in requests if request is not None]

    @property
    def until_s(self) -> float:
        """When the first of the scores that count becomes too old."""
        return min((metric.until_s for one in self.rows for metric in one.metrics), default=inf)

    def judge(self, bench: Bench) -> Sequence[RuleOutcome]:
        """Return the outcome of each. Raises Unavailable."""
        judging = Judging(self.question, self.policy, bench)
        return [outcome for one in self.rows for outcome in judging.of(one)]


def scores(session: Session, question: Question, policy: StandingPolicy) -> GatheredScores | None:
    """Read the scores that a policy's rules are judged by."""
    if question.kind == "remove" or question.digest is None or not policy.document.require:
        return None
    reading = _Reading(session, question)
    return GatheredScores(question, policy, [reading.rows(rule) for rule in policy.document.require])


class _Reading:
    """Reads what rules have in common once."""

    def __init__(self, session: Session, question: Question) -> None:
        self._session = session
        self._question = question
        self._digest = question.digest or ""
        version = session.get_one(Version, question.version_pk)
        self._candidate = Reference(
            (), f"{question.adapter}@v{question.number}", self._digest, version.kind == "adapter"
        )
        self._incumbent = incumbent(session, question)
        self._passed = passed(session, question)
        self._choosers = choosers_of(session, self._digest, question.namespace)
        self._tried = tried_of(session, question.adapter)
        self._makers: dict[str, Makers] = {}
        #: By their numbers; None: the adapter never had one.
        self._numbered: dict[str, Reference | None] = {}
        #: Dataset → digest → scores: many rules may be about the same rows.
        self._scores: dict[str, dict[str, list[ScoreRecord]]] = {}

    def rows(self, rule: RowsRule) -> AskedRows:
        """Read what one rule over rows is judged by."""
        named = self._named(rule)
        others = {
            one.digest for one in (*named.values(), *self._passed, *([self._incumbent] if self._incumbent else []))
        }
        found = self._read(rule.data, others)
        if rule.scored_by == "other_worker":
            self._read_makers({self._digest, *others})
        choosers = self._choosers if rule.chosen_rows == "refused" else []
        datasets = {rule.data, *(one.dataset for one in choosers), *(one.dataset for one in self._tried)}
        return AskedRows(
            rule=rule,
            candidate=self._candidate,
            metrics=[self._metric(rule, name, one, named, found) for name, one in rule.metrics.items()],
            choosers=choosers,
            tried=self._tried,
            removed=self._removed(datasets),
        )

    def _read(self, dataset: str, others: Collection[str]) -> dict[str, list[ScoreRecord]]:
        """The scores of the version, and of others, on a dataset."""
        space = self._question.namespace
        if dataset not in self._scores:
            self._scores[dataset] = read_scores(self._session, {self._digest}, namespace=space, dataset=dataset)
        found = self._scores[dataset]
        if new := set(others) - found.keys():
            in_all = self._question.most_scores
            more = read_scores(
                self._session, new, namespace=space, dataset=dataset, most=_MOST_READ, in_all=in_all and in_all + 1
            )
            if in_all is not None and sum(map(len, more.values())) > in_all:
                raise JudgingNeededError
            found |= more
        return found

    def _removed(self, datasets: Collection[str]) -> list[str]:
        removed = select(Dataset.digest).where(Dataset.digest.in_(sorted(datasets)), Dataset.removed_at.is_not(None))
        return list(self._session.scalars(removed.order_by(Dataset.digest)))

    def _read_makers(self, digests: Collection[str]) -> None:
        new = set(digests) - self._makers.keys()
        if new:
            self._makers |= makers_of_all(self._session, sorted(new), self._question.namespace)

    def _terms(self, rule: RowsRule, digest: str) -> Terms:
        """Whoever made the version that is judged scores neither it nor what it is compared with."""
        each = [self._makers[one] for one in {self._digest, digest} if one in self._makers]
        owners, names = (frozenset().union(*(getattr(one, name) for one in each)) for name in ("owners", "names"))
        return Terms(rule, Makers(owners, names), self._question.now_s)

    def _named(self, rule: RowsRule) -> dict[str, Reference]:
        """The versions that a rule names by their numbers, as far as there are such."""
        asked = {one for metric in rule.metrics.values() for one in metric.references if one.startswith("v")}
        for name in sorted(asked - self._numbered.keys()):
            self._numbered[name] = numbered(self._session, self._question, int(name[1:]), name)
        return {name: one for name in sorted(asked) if (one := self._numbered[name]) is not None}

    def _metric(
        self,
        rule: RowsRule,
        name: str,
        asked: MetricRule,
        named: dict[str, Reference],
        found: dict[str, list[ScoreRecord]],
    ) -> AskedMetric:
        ends = [inf]

        def counted(one: Reference) -> Counted:
            terms = self._terms(rule, one.digest)
            counting = count(found[one.digest], name, terms)
            ends.append(counting.until_s)
            # What is not there can't be scored again.
            return counting if counting.complete or one.is_there else however_old(one)

        def ranked(one: Reference) -> tuple[float | None, ComparedVersion]:
            """With its score, also if that does not count any more: it stays the best, and is scored again."""
            counting = counted(one)
            terms = self._terms(rule, one.digest).however_old()
            each = (count(found[one.digest], name, way).value for way in (terms, terms.by_anybody()))
            value = (
                next((score for score in each if score is not None), None) if counting.value is None else counting.value
            )
            return value, ComparedVersion(one, counting)

        def however_old(one: Reference) -> Counted:
            return count(found[one.digest], name, self._terms(rule, one.digest).however_old())

        better = better_is(name) or asked.better
        wanted: list[Reference] = []
        gone: ComparedVersion | None = None
        unknown = []
        if asked.not_worse_than is not None:
            for called in asked.references:
                if called == "incumbent":
                    wanted += [] if self._incumbent is None else [self._incumbent]
                elif called == "best":
                    best, gone = _best_of(map(ranked, self._passed), less=better == "less")
                    wanted += [] if best is None else [best.reference]
                elif called in named:
                    wanted.append(named[called])
                else:
                    unknown.append(called)
        compared = [ComparedVersion(one, counted(one)) for one in together(wanted)]
        return AskedMetric(
            name=name,
            rule=asked,
            better=better,
            counted=counted(self._candidate),
            compared=compared,
            gone=gone,
            beside_gone=[] if gone is None else [however_old(one.reference) for one in compared],
            unknown=unknown,
            until_s=min(ends),
        )


def _best_of(
    named: Iterable[tuple[float | None, ComparedVersion]], *, less: bool
) -> tuple[ComparedVersion | None, ComparedVersion | None]:
    """Return the version with the best score of those that can still be compared row by row; and the best of all, if its
    rows were removed with it and it was better: then only its score is left.
    """
    sign = -1.0 if less else 1.0
    scored = [(sign * score, one) for score, one in named if score is not None]
    ranked = [one for _, one in sorted(scored, key=lambda pair: -pair[0])]
    best = next((one for one in ranked if one.can_be_compared), None)
    first = next(iter(ranked), None)
    return best, (None if first is best else first)


def missing_of(asked: AskedRows) -> EvaluationRequest | None:
    """Return the evaluation that would make a rule's unknown scores known, of all versions that lack some in one job, so that
    they are scored alike; None: none would.
    """
    refs = dict.fromkeys(ref for metric in asked.metrics for ref in metric.unscored(asked.candidate))
    if not refs:
        return None
    targets = [EvaluationTarget(ref=ref) for ref in refs][:MOST_TARGETS]
    # It is scored anew: a worker takes what is recorded already, which is what does not count here.
    rule = asked.rule
    return EvaluationRequest(
        targets=targets, only=True, data=rule.data, data_name=rule.data_name, spec=spec_of(rule), again=True
    )


def spec_of(rule: RowsRule) -> EvaluationSpec:
    """Return how the rows of a rule are scored, with the metrics that it asks for."""
    names = [name for name in rule.metrics if is_of_texts(name)]
    texts = [cast(TextMetric, name) for name in names if not is_scorer(name)]
    scorers = [name.removeprefix(SCORER_PREFIX).partition(".")[0] for name in names if is_scorer(name)]
    update = {"metrics": texts or None, "scorers": list(dict.fromkeys(scorers)) or None}
    # Without answers to score, none is generated.
    return rule.evaluation.model_copy(update=update | ({} if names else {"generate_rows": 0, "regex": None}))
