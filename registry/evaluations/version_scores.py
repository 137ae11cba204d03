"""The scores of an adapter's versions by one metric on one dataset, for lists and charts."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from registry.catalog.models import Adapter, Version
from registry.catalog.versions.finding import find_adapter
from registry.catalog.versions.lifecycle import VersionState
from registry.db.database import Database
from registry.evaluations.models import AdapterScore, LatestScore
from registry.evaluations.standing import of_version
from registry.principal import Principal
from sdk.formats.refs import looks_like_digest
from sdk.schemas.evaluation import Better, better_is

#: Of how many of the newest versions the scores are offered, and how many of these.
_LOOKED_AT, _MOST_OFFERED = 200, 50
#: Into how many parts a chart is divided: an adapter with no more versions has each by itself.
PARTS = 120


class ScoreKind(NamedTuple):
    """Which scores: by a metric, on a dataset."""

    metric: str
    dataset: str

    @classmethod
    def parse(cls, text: str) -> ScoreKind | None:
        """Return what `str` has written; None for anything else.

        >>> kind = ScoreKind("scorer.style:tone", "ab" * 32)
        >>> ScoreKind.parse(str(kind)) == kind, ScoreKind.parse("loss")
        (True, None)
        """
        metric, _, dataset = text.rpartition(":")
        return cls(metric, dataset) if metric and looks_like_digest(dataset) and len(dataset) == 64 else None

    def __str__(self) -> str:
        return f"{self.metric}:{self.dataset}"

    @property
    def better(self) -> Better | None:
        """Whether less or more is better, if that is known."""
        return better_is(self.metric)


class VersionScore(NamedTuple):
    """The score of one version."""

    value: float
    #: Ends of the 95 % interval; None if they are not known.
    low: float | None
    high: float | None
    evaluation: str


class ScorePoint(NamedTuple):
    """The scores of one version, or of several neighbours: their mean, the least and the highest."""

    number: int
    versions: int
    mean: float
    least: float
    most: float
    #: Of the interval, for a single version.
    low: float | None
    high: float | None


@dataclass(frozen=True)
class AdapterScores:
    """The scores of an adapter's versions."""

    #: None: none of the newest versions has any.
    kind: ScoreKind | None
    #: What else there is, the last score's kind first.
    offered: Sequence[ScoreKind]
    #: By number.
    by_version: dict[int, VersionScore]
    #: Of all ready versions, in the order of their numbers.
    points: Sequence[ScorePoint]
    #: The last number that was given.
    last_number: int


class VersionScores:
    """The service that reads the newest scores of versions."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def of_adapter(
        self, *, adapter: str, kind: ScoreKind | None, numbers: Collection[int], who: Principal
    ) -> AdapterScores:
        """The scores of versions with these numbers, and how those of all went: by `kind`, or by that of the last score.

        However many versions there are, these are five statements. Raises InvalidName, NotFound.
        """
        with self._db.read() as session:
            row = find_adapter(session, adapter, who)
            last = session.get(AdapterScore, row.pk)
            own = None if last is None or last.metric is None else ScoreKind(last.metric, last.dataset_digest or "")
            offered = _offered(session, row, own, who)
            kind = kind or own or (offered[0] if offered else None)
            if kind is None:
                return AdapterScores(None, offered, {}, [], row.last_number)
            return AdapterScores(
                kind,
                offered if kind in offered else [kind, *offered],
                _by_version(session, row, kind, numbers, who),
                _points(session, row, kind, who),
                row.last_number,
            )


def _offered(session: Session, adapter: Adapter, first: ScoreKind | None, who: Principal) -> list[ScoreKind]:
    newest = select(Version.digest).where(Version.adapter_pk == adapter.pk, Version.state == VersionState.READY)
    newest = newest.order_by(Version.number.desc()).limit(_LOOKED_AT)
    digests = session.scalars(newest).all()
    of = (of_version(LatestScore, who, digest=LatestScore.digest, namespace=adapter.namespace),)
    kinds = select(LatestScore.metric, LatestScore.dataset_digest).where(LatestScore.digest.in_(digests), *of)
    kinds = kinds.group_by(LatestScore.metric, LatestScore.dataset_digest)
    kinds = kinds.order_by(func.max(LatestScore.scored_at).desc(), LatestScore.metric).limit(_MOST_OFFERED)
    found = [ScoreKind(*row) for row in session.execute(kinds)]
    return found if first is None else [first, *(kind for kind in found if kind != first)]


def _by_version(
    session: Session, adapter: Adapter, kind: ScoreKind, numbers: Collection[int], who: Principal
) -> dict[int, VersionScore]:
    columns = (Version.number, LatestScore.value, LatestScore.low, LatestScore.high, LatestScore.evaluation_id)
    counts = of_version(LatestScore, who, digest=Version.digest, namespace=adapter.namespace)
    query = select(*columns).join(LatestScore, counts).where(Version.adapter_pk == adapter.pk)
    query = query.where(Version.number.in_(sorted(numbers)), *_of_kind(kind))
    return {row.number: VersionScore(*row[1:]) for row in session.execute(query)}


def _points(session: Session, adapter: Adapter, kind: ScoreKind, who: Principal) -> list[ScorePoint]:
    part = ((Version.number - 1) * PARTS) // max(adapter.last_number, 1)
    value, versions = LatestScore.value, func.count()
    columns = (func.max(Version.number), versions, func.avg(value), func.min(value), func.max(value))
    ends = (func.min(LatestScore.low), func.max(LatestScore.high))
    counts = of_version(LatestScore, who, digest=Version.digest, namespace=adapter.namespace)
    query = select(*columns, *ends).select_from(Version).join(LatestScore, counts)
    ready = (Version.adapter_pk == adapter.pk, Version.state == VersionState.READY)
    rows = session.execute(query.where(*ready, *_of_kind(kind)).group_by(part).order_by(func.max(Version.number)))
    return [ScorePoint(*row[:5], *(row[5:] if row[1] == 1 else (None, None))) for row in rows]


def _of_kind(kind: ScoreKind) -> tuple[ColumnElement[bool], ...]:
    return (LatestScore.metric == kind.metric, LatestScore.dataset_digest == kind.dataset)
