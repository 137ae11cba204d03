"""Judges the rules over rows, outside of any transaction: by the rows of the scores that count."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from registry.datasets.signatures import NotSigned, Reading, TooLongForNow
from registry.errors import RegistryError, Unavailable
from registry.evaluations.slicing import rows_of
from registry.principal import SYSTEM
from registry.promotion.policies.metrics import of_rows
from registry.promotion.question import Bench, Question, StandingPolicy
from registry.promotion.rules import scores_wording as wording
from registry.promotion.rules.asked_scores import AskedLimit, AskedMetric, AskedRows
from registry.promotion.rules.counting import Counted, ScoreRecord, disagreement
from registry.promotion.rules.read_outcomes import outcome_of
from registry.promotion.shared_rows import ReadRows, RowSharing, related
from registry.promotion.tries import count_tries
from registry.rows.comparing.orders import RowsOf
from sdk.schemas.decisions import RuleOutcome, RuleResult
from sdk.schemas.evaluation import CORPUS_METRICS
from sdk.statistics.gates import tried_alpha

#: The largest signatures that are read to see which rows are equal, in bytes.
_MOST_SIGNATURE_BYTES = 1000**3


class _Answer(NamedTuple):
    """What a rule found."""

    outcome: RuleResult
    message: str
    numbers: dict[str, float] = {}  # noqa: RUF012 - nobody changes it
    #: Datasets besides the rule's own of which it says something.
    data: tuple[str, ...] = ()


@dataclass
class _Desk:
    """What all limits on the rows of one dataset are judged with, fetched when the first needs it."""

    bench: Bench
    asked: AskedRows
    folder: Path
    stack: ExitStack
    tries: int
    alpha: float
    _scores: dict[str, Path] = field(default_factory=dict)
    _dataset: Path | None = None
    _signatures: Path | None = None
    _is_fetched: bool = False

    def scores(self, ref: str, scored: ScoreRecord) -> RowsOf:
        """A copy of the rows of some scores. Raises NotFound, Verification, Unavailable."""
        if scored.id not in self._scores:
            path = self.folder / f"scores-{len(self._scores)}"
            self.bench.rows.copy(scored.id, path, who=SYSTEM)
            self._scores[scored.id] = path
        return ref, scored.id, str(self._scores[scored.id])

    def about_rows(self) -> tuple[Path | None, Path | None]:
        """The dataset's own file, if columns of it are asked for, and its signatures, if equal rows are to count once.

        Raises NotFound, Invalid, Verification, Unavailable.
        """
        if not self._is_fetched:
            rule, bench = self.asked.rule, self.bench
            if rule.by is not None or rule.cluster is not None:
                self._dataset = self.stack.enter_context(rows_of(bench.db, bench.artifacts, rule.data, SYSTEM))
            if rule.cluster is None:
                try:
                    reading = Reading(rule.evaluation.columns)
                    opened = bench.signed.opened(rule.data, reading, most=_MOST_SIGNATURE_BYTES)
                    self._signatures = self.stack.enter_context(opened).path
                except (NotSigned, TooLongForNow):
                    # Then each row counts, as in a comparison.
                    self._signatures = None
            self._is_fetched = True
        return self._dataset, self._signatures


class Judging:
    """Judges the rules of one policy."""

    def __init__(self, question: Question, policy: StandingPolicy, bench: Bench) -> None:
        self._question = question
        self._policy = policy
        self._bench = bench
        self._sharing = RowSharing(bench.db, bench.signed, bench.reading)

    def of(self, asked: AskedRows) -> Iterator[RuleOutcome]:
        """Yield the outcome of each limit on the rows of a dataset. Raises Unavailable."""
        chosen = self._chosen(asked)
        limits = [(metric, limit) for metric in asked.metrics for limit in metric.limits()]
        early = [self._known(asked, metric, limit, chosen) for metric, limit in limits]
        with ExitStack() as stack:
            desk: _Desk | None = None
            for (metric, limit), known in zip(limits, early, strict=True):
                if known is None:
                    desk = desk or self._desk(asked, stack)
                    known = self._judged(desk, metric, limit)
                yield self._outcome(asked, metric, limit, known)

    def _desk(self, asked: AskedRows, stack: ExitStack) -> _Desk:
        """Raises Unavailable."""
        others = [ReadRows(one.dataset, one.columns) for one in asked.tried]
        counting = related(self._sharing.of_judged(asked.rule, others)) | {asked.rule.data}
        with self._bench.db.read() as session:
            tries = max(1, count_tries(session, self._question.adapter, counting))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="judged-")))
        alpha = tried_alpha(self._policy.document.alpha, tries)
        return _Desk(self._bench, asked, folder, stack, tries, alpha)

    def _chosen(self, asked: AskedRows) -> _Answer | None:
        """What the rules are if the rows chose the version, or nobody knows whether they did."""
        unknown: _Answer | None = None
        for dataset, shared in sorted(self._sharing.of_judged(asked.rule, asked.choosers).items()):
            which = "these rows" if dataset == asked.rule.data else f"those of {dataset[:12]}"
            instead = "judge it by others, or say in the policy: chosen_rows: allowed"
            if shared.is_much:
                some = "" if dataset == asked.rule.data else f", which have {shared.shared} of {shared.rows} of these,"
                return _Answer(
                    "unknown",
                    f"the version was chosen by {which}{some} and they flatter it; {instead}",
                    data=(dataset,),
                )
            if shared.is_much is None:
                why = (
                    f"the version was chosen by {which}, and whether these are among them is not known: {shared.reason}"
                )
                unknown = unknown or _Answer("unknown", f"{why}; {instead}", data=(dataset,))
        return unknown

    def _known(
        self, asked: AskedRows, metric: AskedMetric, limit: AskedLimit, chosen: _Answer | None
    ) -> _Answer | None:
        """The outcome of a limit if no rows have to be read for it."""
        if not limit.is_floor:
            if limit.lacking is not None:
                never = f"{self._question.adapter} has no {limit.lacking}"
                return _Answer("unknown", f"{never}; name another version in the policy, or leave it out")
            if limit.compared is None:
                return _Answer(
                    "passed", f"{self._question.alias} has named no version before that it could be worse than"
                )
            if limit.compared.reference.digest == asked.candidate.digest:
                return _Answer("passed", f"it has the same bytes as {limit.compared.reference.said}")
            if metric.better is None:
                return _Answer(
                    "unknown",
                    f"nobody says whether less or more of {metric.name} is better; set the policy with better: less, or more",
                )
        if not asked.candidate.is_there:
            return _Answer(
                "unknown", "a merged model is not scored by this; promote the adapter that was merged into it"
            )
        if chosen is not None:
            return chosen
        for ref, counted in self._needed(asked, metric, limit):
            if counted.lacks is not None:
                if (
                    limit.compared is not None
                    and not limit.compared.reference.is_there
                    and counted is not metric.counted
                ):
                    return self._without(f"{ref} {counted.lacks}, and is not there any more")
                return _Answer("unknown", f"{ref} {counted.lacks}; {self._how_to_score(asked, metric, counted)}")
        return self._unlike(asked, metric, limit)

    def _needed(self, asked: AskedRows, metric: AskedMetric, limit: AskedLimit) -> Iterator[tuple[str, Counted]]:
        yield asked.candidate.ref, metric.counted
        if limit.compared is not None:
            yield limit.compared.reference.ref, limit.compared.counted

    def _unlike(self, asked: AskedRows, metric: AskedMetric, limit: AskedLimit) -> _Answer | None:
        """What a limit is if the scores say different things, or have no rows, or were measured otherwise."""
        if limit.is_floor:
            scored = [(asked.candidate.ref, metric.alone() or metric.counted.complete[0], metric.counted)]
            has_rows = metric.alone() is not None or self._by_value(metric, limit)
        elif limit.limit.point:
            return None
        else:
            assert limit.compared is not None
            pair, has_rows = metric.pair(limit.compared.counted), True
            if pair is None:
                theirs = limit.compared.reference
                if not theirs.is_there:
                    return self._without(f"{theirs.ref} is not there any more, and the rows of its scores went with it")
                why = f"{asked.candidate.ref} and {theirs.said} have no scores that were measured in the same way"
                return _Answer("unknown", f"{why}; score both in one job: promote with --wait")
            counted = (metric.counted, limit.compared.counted)
            refs = (asked.candidate.ref, limit.compared.reference.ref)
            scored = list(zip(refs, pair, counted, strict=True))
        for ref, one, of in scored:
            if (differs := disagreement(of.alike(one.measured_as(metric.name)), metric.name)) is not None:
                return _Answer("unknown", f"{ref}: {differs}")
        if not has_rows:
            return _Answer(
                "unknown",
                f"the rows of the scores of {asked.candidate.ref} were removed; score it again: promote with --wait",
            )
        return None

    def _without(self, why: str) -> _Answer:
        """What a limit is if nothing can ever be compared for it."""
        return _Answer("unknown", f"{why}; promote with --override --reason, or compare with another version")

    def _by_value(self, metric: AskedMetric, limit: AskedLimit) -> bool:
        """Whether a floor is about a score of all rows together, which no row has."""
        return limit.limit.point and (not of_rows(metric.name) or metric.name in CORPUS_METRICS)

    def _how_to_score(self, asked: AskedRows, metric: AskedMetric, counted: Counted) -> str:
        if not counted.is_missing:
            return "choose rows that can be scored, or score it again: adapterctl eval REF --again"
        return "have it scored: promote with --wait"

    # By the rows.

    def _judged(self, desk: _Desk, metric: AskedMetric, limit: AskedLimit) -> _Answer:
        """Raises Unavailable."""
        if limit.is_floor and self._by_value(metric, limit):
            return self._by_score(desk, metric, limit)
        if limit.limit.point and not limit.is_floor:
            return self._beside_gone(desk, metric, limit)
        try:
            return self._by_rows(desk, metric, limit)
        except Unavailable:
            raise
        except RegistryError as error:
            return _Answer("unknown", error.message, {"tries": desk.tries})

    def _by_rows(self, desk: _Desk, metric: AskedMetric, limit: AskedLimit) -> _Answer:
        """Raises RegistryError for rows that can't be read."""
        rule, candidate = desk.asked.rule, desk.asked.candidate
        if limit.compared is None:
            alone = metric.alone()
            assert alone is not None
            targets = [desk.scores(candidate.ref, alone)]
        else:
            pair = metric.pair(limit.compared.counted)
            assert pair is not None
            targets = [desk.scores(candidate.ref, pair[0]), desk.scores(limit.compared.reference.ref, pair[1])]
        dataset, signatures = desk.about_rows()
        (found,) = self._bench.reading.judge(
            targets,
            metric.name,
            [limit.limit],
            alpha=desk.alpha,
            lower_is_better=metric.better == "less",
            dataset=dataset,
            by=rule.by,
            cluster=rule.cluster,
            signatures=signatures,
        )
        numbers = _named(found.whole.numbers(), is_floor=limit.is_floor) | {"tries": float(desk.tries)}
        if found.whole.rows < rule.min_rows:
            return _Answer("unknown", _few(found.whole.rows, rule.min_rows), numbers)
        message = wording.found_out(limit.limit.asked, found, metric.name, by=rule.by)
        if found.outcome == "failed":
            message += f"; {wording.failed(limit.limit.asked, desk.tries)}"
        return _Answer(found.outcome, message, numbers)

    def _by_score(self, desk: _Desk, metric: AskedMetric, limit: AskedLimit) -> _Answer:
        """Judge by a score of all rows together."""
        first = metric.counted.complete[0]
        value, bound = first.metrics[metric.name], limit.limit.value
        rows = first.rows_of(metric.name)
        numbers = {"score": value, "bound": bound, "tries": float(desk.tries)} | (
            {} if rows is None else {"rows": rows}
        )
        if rows is not None and rows < desk.asked.rule.min_rows:
            return _Answer("unknown", _few(int(rows), desk.asked.rule.min_rows), numbers)
        is_kept = value >= bound if limit.limit.asked == "at_least" else value <= bound
        message = f"{metric.name} is {value:.4g}" + ("" if rows is None else f" on {rows:.0f} rows")
        if is_kept:
            return _Answer("passed", message, numbers)
        return _Answer("failed", f"{message}; {wording.failed(limit.limit.asked, 1)}", numbers)

    def _beside_gone(self, desk: _Desk, metric: AskedMetric, limit: AskedLimit) -> _Answer:
        """Compare with a version whose rows were removed with it, by the scores on the same rows alone."""
        assert limit.compared is not None
        said = limit.compared.reference.said
        found = next(metric.beyond_gone(), None)
        if found is None:
            # It can't be measured again, and to leave it out would let a version lose whatever it likes.
            mine = desk.asked.candidate.ref
            return self._without(
                f"{said} was deleted with its rows, and no version has scores both as it was measured and as {mine} was"
            )
        worse = found[0] * (-1.0 if metric.better == "less" else 1.0)
        numbers = {"difference": worse, "margin": limit.limit.value, "tries": float(desk.tries)}
        by = "by the scores alone" if found[1] is None else "by the scores of versions that were measured in both ways"
        message = (
            f"{said} was deleted with its rows, and {by} it is {'worse' if worse > 0 else 'better'} by {abs(worse):.4g}"
        )
        if worse <= limit.limit.value:
            return _Answer("passed", message, numbers)
        return _Answer("failed", f"{message}; {wording.failed('not_worse_than', 1)}", numbers)

    def _outcome(self, asked: AskedRows, metric: AskedMetric, limit: AskedLimit, found: _Answer) -> RuleOutcome:
        rule = asked.rule
        than = limit.lacking or ("what it named last" if limit.compared is None else limit.compared.reference.said)
        text = wording.asked_for(
            metric.name, rule.data_name or rule.data[:12], limit.limit.asked, limit.limit.value, than=than, by=rule.by
        )
        return outcome_of(
            self._policy,
            "floor" if limit.is_floor else "not_worse",
            text,
            found.outcome,
            found.message,
            numbers=found.numbers,
            data=list(dict.fromkeys([rule.data, *found.data])),
        )


def _named(numbers: Mapping[str, float], *, is_floor: bool) -> dict[str, float]:
    """What rows say to a limit, by the names that decisions have for it."""
    names = {"value": "score", "limit": "bound"} if is_floor else {"value": "difference", "limit": "margin"}
    return {names.get(name, name): float(value) for name, value in numbers.items()}


def _few(rows: int, least: int) -> str:
    return (
        f"only {rows} of at least {least} rows have the score; judge it by more rows, or lower min_rows in the policy"
    )
