"""From the tree of a filter to a condition of SQL over versions; every value is a bound parameter.

A condition is true or false, and never NULL, so that `not` and `!=` mean what they say.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import replace
from datetime import date, datetime
from typing import Any

from sqlalchemy import ColumnElement, ScalarSelect, and_, false, not_, or_, select, true
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased

from registry.catalog.models import (
    Adapter,
    Alias,
    BaseModelRow,
    NamedBase,
    Origin,
    Version,
    VersionDataset,
    VersionTag,
    VersionTarget,
)
from registry.catalog.versions.lifecycle import PULLABLE, VersionState
from registry.datasets.models import DatasetNumber
from registry.errors import Forbidden
from registry.evaluations.models import EvaluationMetric, LatestScore
from registry.evaluations.standing import of_version
from registry.principal import Principal
from registry.search.fields import And, Field, FieldComparison, Node, Not, Value, comparisons, day_bounds
from sdk.formats.dataset_names import split_dataset_name
from sdk.formats.refs import digest_digits, looks_like_digest

#: How many keys are read first and then compared with as constants; if there are more, the database reads them itself.
_FEW = 100

_SIGNS: dict[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq,
    "in": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
#: Fields that are a column, which is never NULL.
_PLAIN: dict[str, Any] = {
    "name": Adapter.name,
    "namespace": Adapter.namespace,
    "rank": Version.rank,
    "alpha": Version.lora["alpha"].as_float(),
    "method": Version.method,
    "state": Version.state,
    "author": Version.created_by,
    "kind": Version.kind,
}
Condition = ColumnElement[bool]


def condition_of(session: Session, tree: Node, who: Principal, scores_of: str | None = None) -> Condition:
    """Return the condition over Version, joined with Adapter, that `tree` is true and the caller may see the version.

    Only ready versions are found unless the filter mentions states. Raises Forbidden if it asks for quarantined ones
    and the caller is not an admin, NotFound if they may not read the scores of `scores_of`.
    """
    said = _Compiler(session, who, scores_of).node(tree)
    return and_(who.within(Adapter.namespace), _of_states(tree, who), said)


def mentions_scores(tree: Node) -> bool:
    """Whether a filter asks for scores."""
    return any(part.field.word == "eval" for part in comparisons(tree))


def scored_by(session: Session, tree: Node, who: Principal, scores_of: str | None = None) -> Condition:
    """Return the condition over EvaluationMetric, joined with Version and Adapter, that a score is one for which a
    comparison of `tree` is true.
    """
    compiler = _Compiler(session, who, scores_of)
    of_scores = (part for part in comparisons(tree) if part.field.word == "eval")
    return or_(false(), *(and_(*compiler.score(part)) for part in of_scores))


def last_score(session: Session, field: Field, who: Principal, scores_of: str | None = None) -> ScalarSelect[float]:
    """Return the newest score of a version by a metric on a dataset, as a column beside Version and Adapter; NULL without one.

    Raises NotFound if the caller may not read the scores of `scores_of`.
    """
    return _Compiler(session, who, scores_of).last_score(field)


def _of_states(tree: Node, who: Principal) -> Condition:
    """The condition that a version's state is one that the caller may see and the filter does not leave out."""
    asked = {value for part in comparisons(tree) if part.field.word == "state" for value in part.values}
    if not asked:
        shown = {VersionState.READY}
    elif who.namespaces("admin") != []:
        shown = {*PULLABLE, VersionState.QUARANTINED}
    elif VersionState.QUARANTINED in asked:
        raise Forbidden("only admins can see quarantined versions; ask for ready or archived ones", param="filter")
    else:
        shown = set(PULLABLE)
    # Nearly every version is ready. With the condition written this way, no planner walks the index of states because
    # of it, instead of one that fits the question.
    condition: Condition = Version.state.not_in(sorted(set(VersionState) - shown))
    if VersionState.QUARANTINED in shown:
        administered = who.within(Adapter.namespace, "admin")
        condition = and_(condition, or_(Version.state != VersionState.QUARANTINED, administered))
    return condition


class _Compiler:
    """One method per kind of field; each takes a comparison whose operator is not `!=`."""

    def __init__(self, session: Session, who: Principal, scores_of: str | None) -> None:
        self._session = session
        self._who = who
        self._scores_of = scores_of
        self._sqlite = session.get_bind().dialect.name == "sqlite"

    def node(self, tree: Node) -> Condition:
        """Return the condition of a tree."""
        if isinstance(tree, FieldComparison):
            return self._comparison(tree)
        if isinstance(tree, Not):
            return not_(self.node(tree.part))
        parts = [self.node(part) for part in tree.parts]
        return and_(true(), *parts) if isinstance(tree, And) else or_(false(), *parts)

    def _comparison(self, given: FieldComparison) -> Condition:
        if given.operator == "!=":
            return not_(self._comparison(replace(given, operator="=")))
        plain = _PLAIN.get(given.field.word)
        if plain is not None:
            return self._compare(plain, given)
        match given.field.word:
            case "base":
                called = and_(self._who.within(NamedBase.namespace), self._compare(NamedBase.id, given))
                return self._one_of_keys(Version.base_pk, NamedBase.base_pk, called)
            case "base.fingerprint":
                begins = _begins(BaseModelRow.fingerprint, given.values)
                return self._one_of_keys(Version.base_pk, BaseModelRow.pk, begins)
            case "number":
                return and_(Version.number.is_not(None), self._compare(Version.number, given))
            case "created":
                return or_(false(), *(_made(given.operator, value) for value in given.values))
            case "digest":
                return _begins(Version.digest, given.values)
            case "target":
                return self._has(VersionTarget.version_pk, self._compare(VersionTarget.module, given))
            case "alias":
                return self._has(Alias.version_pk, self._compare(Alias.name, given))
            case "tag":
                named = VersionTag.key == given.field.key
                return self._has(VersionTag.version_pk, named, self._compare(VersionTag.value, given))
            case "dataset":
                return or_(
                    _exists(Origin.version_pk, self._trained_on(Origin.dataset_digest, given)),
                    _exists(VersionDataset.version_pk, self._trained_on(VersionDataset.digest, given)),
                )
            case "eval":
                return self._scored(given)
        raise AssertionError(f"no condition for {given.field}")

    def _compare(self, column: Any, given: FieldComparison) -> Condition:
        """Compare a column of plain values with those of a comparison."""
        if given.operator == "~":
            return self._fits(column, str(given.values[0]))
        if len(given.values) == 1:
            return _compared(column, given.operator, given.values[0])
        some: Condition = column.in_(given.values)
        return some

    def _fits(self, column: Any, pattern: str) -> Condition:
        """Match a column with a pattern in which only `*` has a meaning, and case matters."""
        fits: Condition
        if self._sqlite:
            # Its LIKE does not distinguish "a" from "A".
            fits = column.op("GLOB", is_comparison=True)("".join(f"[{c}]" if c in "[?" else c for c in pattern))
        else:
            fits = column.like(
                "".join("%" if c == "*" else f"\\{c}" if c in "\\%_" else c for c in pattern), escape="\\"
            )
        return fits

    def _one_of_keys(self, column: Any, key: InstrumentedAttribute[Any], wanted: Condition) -> Condition:
        """Compare a column with the keys of the wanted rows."""
        query = select(key).where(wanted)
        # With constants, an index of (base, rank, key) is walked in its own order.
        found = self._session.scalars(query.limit(_FEW + 1)).all()
        some: Condition = column.in_(query if len(found) > _FEW else found)
        return some if found else false()

    def _has(self, column: Any, *conditions: Condition) -> Condition:
        """The condition that a version has a row in another table for which all conditions, about that row alone, are true."""
        # If few have, they are compared with as constants, by which an index of versions is used; if many have, some are
        # found soon.
        found = self._session.scalars(select(column).where(*conditions).limit(_FEW + 1)).all()
        if len(found) <= _FEW:
            few: Condition = Version.pk.in_(sorted(set(found)))
            return few if found else false()
        return _exists(column, *conditions)

    def _trained_on(self, column: Any, given: FieldComparison) -> Condition:
        """The condition that a column names a dataset, by a name that the caller may see, or by its digest."""
        if given.operator == "~":
            return self._of_names(column, self._compare(DatasetNumber.name, given))
        return self._of_dataset(column, given.values)

    def _scored(self, given: FieldComparison) -> Condition:
        """The condition that a version has such a score, among those that count for it."""
        some = select(EvaluationMetric.digest).where(*self.score(given))
        return some.correlate(Version, Adapter).exists()

    def score(self, given: FieldComparison) -> tuple[Condition, ...]:
        """The conditions that a score counts for a version, and is such a one."""
        if given.operator == "!=":
            given = replace(given, operator="=")
        counts = of_version(
            EvaluationMetric,
            self._who,
            digest=Version.digest,
            namespace=Adapter.namespace,
            scores_of=self._scores_of,
        )
        return (
            counts,
            EvaluationMetric.name == given.field.metric,
            self._of_dataset(EvaluationMetric.dataset_digest, (given.field.key,)),
            self._compare(EvaluationMetric.value, given),
        )

    def last_score(self, field: Field) -> ScalarSelect[float]:
        """The newest of the scores that count for a version."""
        counts = of_version(
            LatestScore, self._who, digest=Version.digest, namespace=Adapter.namespace, scores_of=self._scores_of
        )
        newest = (LatestScore.scored_at.desc(), LatestScore.evaluation_id.desc(), LatestScore.dataset_digest)
        query = select(LatestScore.value).where(
            counts, LatestScore.metric == field.metric, self._of_dataset(LatestScore.dataset_digest, (field.key,))
        )
        return query.order_by(*newest).limit(1).correlate(Version, Adapter).scalar_subquery()

    def _of_dataset(self, column: Any, values: Sequence[Any]) -> Condition:
        """The condition that a column is the digest of one of some datasets; what looks like a digest is not a name."""
        names = [value for value in values if not looks_like_digest(str(value))]
        digests = [digits for value in values if (digits := digest_digits(str(value))) is not None]
        # A digest is part of the version or the evaluation itself, which the caller can see.
        named = [split_dataset_name(str(name)) for name in names]
        numbered = [
            and_(DatasetNumber.name == name, DatasetNumber.number == number)
            for name, number in named
            if number is not None
        ]
        plain = [name for name, number in named if number is None]
        return or_(_begins(column, digests), self._of_names(column, or_(DatasetNumber.name.in_(plain), *numbered)))

    def _of_names(self, column: Any, named: Condition) -> Condition:
        """The condition that a column is the digest of a dataset of some name: of the one that the version's own
        namespace calls so, or if there it is not a dataset's name, of those that others call so.
        """
        known = and_(named, self._who.within(DatasetNumber.namespace))
        columns = (DatasetNumber.name, DatasetNumber.namespace, DatasetNumber.digest)
        # With constants, an index of digests is used.
        found = self._session.execute(select(*columns).where(known).distinct().limit(_FEW + 1)).all()
        if len(found) > _FEW:
            own = aliased(DatasetNumber)
            taken = select(own.digest).where(own.name == DatasetNumber.name, own.namespace == Adapter.namespace)
            meant = or_(DatasetNumber.namespace == Adapter.namespace, not_(taken.exists()))
            some: Condition = column.in_(select(DatasetNumber.digest).where(known, meant).correlate(Adapter))
            return some
        named_so: dict[str, dict[str, set[str]]] = {}
        for name, namespace, digest in found:
            named_so.setdefault(name, {}).setdefault(namespace, set()).add(digest)
        return or_(false(), *(_meant(column, by_namespace) for by_namespace in named_so.values()))


def _meant(column: Any, by_namespace: Mapping[str, Set[str]]) -> Condition:
    """The condition that a column is one of the digests that a name has, each in a namespace, for a version."""
    every = sorted(set().union(*by_namespace.values()))
    one_of_all: Condition = column.in_(every)
    if all(len(digests) == len(every) for digests in by_namespace.values()):
        return one_of_all
    own = (and_(Adapter.namespace == space, column.in_(sorted(found))) for space, found in by_namespace.items())
    return and_(one_of_all, or_(Adapter.namespace.not_in(sorted(by_namespace)), *own))


def _exists(column: Any, *conditions: Condition) -> Condition:
    """The condition that a version has a row in another table for which all conditions are true."""
    return select(column).where(column == Version.pk, *conditions).correlate(Version, Adapter).exists()


def _begins(column: Any, digests: Sequence[Value]) -> Condition:
    """The condition that a digest begins with one of some prefixes: an index can answer ranges, but not LIKE."""
    return or_(false(), *(_begins_with(column, str(digits)) for digits in digests))


def _begins_with(column: Any, digits: str) -> Condition:
    whole: Condition = column == digits
    # "g" comes after every hexadecimal digit, whatever language the database sorts in.
    return whole if len(digits) == 64 else and_(column >= digits, column < f"{digits}g")


def _made(sign: str, value: Value) -> Condition:
    """Compare the moment at which a version was made with another moment, or with a whole day."""
    if isinstance(value, datetime):
        return _compared(Version.created_at, sign, value)
    assert isinstance(value, date)
    start, end = day_bounds(value)
    before_end, from_end = Version.created_at < end, Version.created_at >= end
    match sign:
        case "<" | ">=":
            return _compared(Version.created_at, sign, start)
        case "<=":
            return before_end
        case ">":
            return from_end
    return and_(Version.created_at >= start, before_end)


def _compared(column: Any, sign: str, value: Value) -> Condition:
    held: Condition = _SIGNS[sign](column, value)
    return held
