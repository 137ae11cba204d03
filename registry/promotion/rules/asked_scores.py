"""What the rules over the rows of one dataset are judged by, as it was read in one transaction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import inf
from typing import Any

from registry.promotion.rules.counting import Counted, ScoreRecord
from registry.promotion.rules.references import Reference
from registry.promotion.shared_rows import ReadRows
from registry.promotion.tries import TriedDataset
from sdk.schemas.evaluation import Better
from sdk.schemas.policies import MetricRule, RowsRule
from sdk.statistics.gates import ScoreLimit


@dataclass(frozen=True)
class ComparedVersion:
    """A version that one is compared with, and its scores that count."""

    reference: Reference
    counted: Counted

    @property
    def can_be_compared(self) -> bool:
        """Whether it has scores of rows, or can get some."""
        return self.reference.is_there or any(one.has_rows for one in self.counted.complete)


@dataclass(frozen=True)
class AskedLimit:
    """One limit of a score."""

    limit: ScoreLimit
    #: Of "not_worse_than"; None: there is nothing to compare with.
    compared: ComparedVersion | None = None
    #: The version that the adapter never had, if it is to be compared with that.
    lacking: str | None = None

    @property
    def is_floor(self) -> bool:
        """Whether it is about the score alone."""
        return self.limit.asked != "not_worse_than"


@dataclass(frozen=True)
class AskedMetric:
    """One metric of a rule, with the scores that it is judged by."""

    name: str
    rule: MetricRule
    #: None: nobody says in which direction it is better.
    better: Better | None
    counted: Counted
    #: Each different version that it must not be worse than.
    compared: Sequence[ComparedVersion]
    #: The best that the alias has named, if its rows were removed with it.
    gone: ComparedVersion | None
    #: Beside that, the scores of the others, however old: some may have been measured as those of `gone` were.
    beside_gone: Sequence[Counted]
    #: What the rule compares with and the adapter never had: "v9".
    unknown: Sequence[str]
    #: As `Gathered.until_s`: until then the same scores count, and the best is the same.
    until_s: float = inf

    def pair(self, other: Counted) -> tuple[ScoreRecord, ScoreRecord] | None:
        """The scores of the version, and those of another that were measured in the same way: the first that have rows."""
        for way in self.counted.ways():
            mine, theirs = (_with_rows(one.alike(way)) for one in (self.counted, other))
            if mine is not None and theirs is not None:
                return mine, theirs
        return None

    def alone(self) -> ScoreRecord | None:
        """The first scores of the version that have rows; None: there are none."""
        each = (_with_rows(self.counted.alike(way)) for way in self.counted.ways())
        return next((one for one in each if one is not None), None)

    def beyond_gone(self) -> Iterator[tuple[float, Counted | None]]:
        """Yield by how much higher the score of `gone` is than the version's own, and the scores of which version say so, as of
        one that was measured both as the one was and as the other; None: the two were measured alike.
        """
        if self.gone is None:
            return
        metric, mine, theirs = self.name, self.counted, self.gone.counted
        for way in theirs.ways():
            value = theirs.alike(way)[0].metrics[metric]
            if alike := mine.alike(way):
                yield value - alike[0].metrics[metric], None
        for way, own in product(theirs.ways(), mine.ways()):
            rest = theirs.alike(way)[0].metrics[metric] - mine.alike(own)[0].metrics[metric]
            for one in self.beside_gone:
                if (before := one.alike(way)) and (now := one.alike(own)):
                    yield rest + now[0].metrics[metric] - before[0].metrics[metric], one

    def unscored(self, candidate: Reference) -> list[str]:
        """The refs of all versions that have to be scored for it, the version itself first."""
        found: dict[str, None] = {}
        asks = self.rule.at_least is not None or self.rule.at_most is not None
        compared = [one for one in self.compared if one.reference.digest != candidate.digest and one.can_be_compared]
        if (asks or compared or self.gone is not None) and (
            self.counted.is_missing or (self.counted.complete and self.alone() is None)
        ):
            found[candidate.ref] = None
        for one in compared:
            if one.counted.is_missing:
                found[one.reference.ref] = None
            elif (
                one.reference.is_there
                and self.counted.complete
                and one.counted.complete
                and self.pair(one.counted) is None
            ):
                # What was measured in two ways is measured in one.
                found |= dict.fromkeys([candidate.ref, one.reference.ref])
        there = {one.reference.ref for one in compared if one.reference.is_there}
        there |= {candidate.ref} if candidate.is_there else set()
        return [ref for ref in sorted(found, key=lambda ref: ref != candidate.ref) if ref in there]

    def limits(self) -> Iterator[AskedLimit]:
        """Yield each limit that it asks for, which a decision has one line for."""
        rule = self.rule
        if rule.at_least is not None:
            yield AskedLimit(ScoreLimit("at_least", rule.at_least, point=rule.point))
        if rule.at_most is not None:
            yield AskedLimit(ScoreLimit("at_most", rule.at_most, point=rule.point))
        if rule.not_worse_than is None:
            return
        limit = ScoreLimit("not_worse_than", rule.not_worse_than)
        found = [AskedLimit(limit, one) for one in self.compared]
        if self.gone is not None:
            found.append(AskedLimit(ScoreLimit("not_worse_than", rule.not_worse_than, point=True), self.gone))
        found += [AskedLimit(limit, lacking=one) for one in self.unknown]
        yield from found or [AskedLimit(limit)]

    def identity(self) -> list[Any]:
        """What differs whenever it is judged by something else."""
        others = [[*one.reference.called, one.reference.digest, one.counted.identity()] for one in self.compared]
        gone = None if self.gone is None else [self.gone.reference.digest, self.gone.counted.identity()]
        gone = gone and [*gone, [one.identity() for one in self.beside_gone]]
        return [self.name, self.counted.identity(), others, gone, list(self.unknown)]


def _with_rows(alike: Sequence[ScoreRecord]) -> ScoreRecord | None:
    return next((one for one in alike if one.has_rows), None)


@dataclass(frozen=True)
class AskedRows:
    """A rule over the rows of one dataset, with all that it is judged by."""

    rule: RowsRule
    candidate: Reference
    metrics: Sequence[AskedMetric]
    #: Datasets by whose rows the version was chosen.
    choosers: Sequence[ReadRows]
    #: On which datasets versions of the adapter were tried.
    tried: Sequence[TriedDataset]
    #: Which of all these datasets were removed, so that their rows may be gone.
    removed: Sequence[str]

    def identity(self) -> list[Any]:
        """What differs whenever it is judged by something else."""
        return [
            self.rule.data,
            [metric.identity() for metric in self.metrics],
            [list(one) for one in self.choosers],
            [list(one) for one in self.tried],
            list(self.removed),
        ]
