"""The newest score of each version on each dataset by each metric, and the last one of each adapter: kept when an evaluation
is recorded, so that lists and charts read columns.

Scores belong to bytes in a namespace, as `standing` has it, so they are there before a version with these bytes is, and stay
when it goes. What an adapter got last follows from those of its ready versions, and is found anew whenever one of them is
hidden, removed or brought back.

>>> main_metric(["eval_s", "loss", "rouge_l", "exact_match"], {"metrics": ["exact_match"]})
'exact_match'
>>> main_metric(["loss", "perplexity", "rows"], {})
'loss'
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import select, text, update
from sqlalchemy.orm import Session

from registry.artifacts.stored_blobs import hold_blobs
from registry.catalog.models import Adapter, Version
from registry.catalog.versions.lifecycle import LIVE, VersionState
from registry.db.statements import connection_of, insert_if_new, native_insert
from registry.evaluations.models import AdapterScore, Evaluation, LatestScore
from registry.evaluations.standing import of_version
from registry.principal import SYSTEM
from sdk.schemas.evaluation import SCORER_PREFIX, is_score

#: How many scores of an evaluation are kept for lists.
MOST_METRICS = 20
#: What is shown of an evaluation for which no metric was asked by name, the first of them that it has.
_MAIN = ("accuracy", "acc_norm", "acc", "preference_accuracy", "loss")
_COLUMNS = ("number", "dataset_digest", "metric", "value", "low", "high", "evaluation_id", "scored_at")

#: The first key of the locks of bytes that get scores; the second is from their namespace and digest.
_SCORES_LOCK = 0x73636F72

Intervals = Mapping[str, Mapping[str, tuple[float, float]]]


def main_metric(metrics: Iterable[str], spec: Mapping[str, Any]) -> str | None:
    """Return the one metric of an evaluation that is shown where there is room for one; None if it has no score."""
    there = sorted(name for name in metrics if is_score(name))
    asked = [*(spec.get("metrics") or ()), *(SCORER_PREFIX + name for name in spec.get("scorers") or ())]
    wanted = [*(name for one in asked for name in there if name == one or name.startswith(f"{one}.")), *_MAIN]
    return next((name for name in wanted if name in there), there[0] if there else None)


def counted_names(metrics: Iterable[str], spec: Mapping[str, Any]) -> list[str]:
    """Return which scores of an evaluation are kept for lists, the main one first."""
    main = main_metric(metrics, spec)
    rest = sorted(name for name in metrics if is_score(name) and name != main)
    return [] if main is None else [main, *rest][:MOST_METRICS]


def hold_scores(session: Session, scored: Iterable[tuple[str, str]]) -> None:
    """Let nobody else record scores of these bytes, each as a namespace and a digest, or publish them, until the transaction
    ends: whoever does it later sees what this transaction did.

    Call it before anything else is locked. Otherwise a version and its scores that are written at once miss each other.
    """
    if session.get_bind().dialect.name != "postgresql":
        return
    # Those who publish hold the blobs too, some before this and some after it, and who removes blobs waits between them.
    hold_blobs(session)
    for key in sorted({zlib.crc32(f"{namespace}/{digest}".encode()) - 2**31 for namespace, digest in scored}):
        session.execute(text("SELECT pg_advisory_xact_lock(:of, :bytes)"), {"of": _SCORES_LOCK, "bytes": key})


def note_latest(session: Session, rows: Sequence[Evaluation], intervals: Intervals) -> None:
    """Keep the scores of new evaluations as the newest ones; `intervals` are theirs, by label and metric.

    The caller has called `hold_scores`.
    """
    scores = [score for row in rows for score in _scores(row, intervals.get(row.label, {}))]
    if not scores:
        return
    session.flush()
    connection = connection_of(session)
    statement = native_insert(connection.dialect.name, LatestScore)
    new = statement.excluded
    key = ("namespace", "digest", "dataset_digest", "metric")
    changed = {name: new[name] for name in scores[0] if name not in key}
    # Of two that are handed in at once, the newer one is kept.
    kept = statement.on_conflict_do_update(
        index_elements=list(key), set_=changed, where=LatestScore.scored_at <= new.scored_at
    )
    # In one order, so that no two jobs wait for each other.
    connection.execute(kept, sorted(scores, key=lambda score: [score[name] for name in key]))
    for pk, namespace in _adapters_with(session, {(row.namespace, row.digest) for row in rows if row.digest}):
        follow(session, pk, namespace)


def follow(session: Session, adapter_pk: int, namespace: str) -> None:
    """Find out which score an adapter got last."""
    # Whoever changes it too waits here, and then sees what this transaction has changed.
    insert_if_new(session, AdapterScore, adapter_pk=adapter_pk)
    own = AdapterScore.adapter_pk == adapter_pk
    session.execute(select(AdapterScore.adapter_pk).where(own).with_for_update())
    found = session.execute(
        select(Version.number, *(getattr(LatestScore, name) for name in _COLUMNS[1:]))
        .join(LatestScore, of_version(LatestScore, SYSTEM, digest=Version.digest, namespace=namespace))
        .where(Version.adapter_pk == adapter_pk, Version.state == VersionState.READY, LatestScore.is_main)
        .order_by(LatestScore.scored_at.desc(), LatestScore.evaluation_id.desc(), Version.number.desc())
        .limit(1)
    ).first()
    session.execute(
        update(AdapterScore).where(own).values(dict(zip(_COLUMNS, found or [None] * len(_COLUMNS), strict=True)))
    )


def _scores(row: Evaluation, intervals: Mapping[str, tuple[float, float]]) -> Iterator[dict[str, Any]]:
    if row.digest is None:
        return
    for place, name in enumerate(counted_names(row.metrics, row.spec)):
        low, high = intervals.get(name, (None, None))
        yield {
            "namespace": row.namespace,
            "digest": row.digest,
            "dataset_digest": row.dataset_digest,
            "metric": name[:100],
            "is_main": place == 0,
            "value": row.metrics[name],
            "low": low,
            "high": high,
            "evaluation_id": row.id,
            "scored_at": row.created_at,
        }


def _adapters_with(session: Session, scored: Iterable[tuple[str, str]]) -> list[tuple[int, str]]:
    """The adapters that have a version with scored bytes, in their own namespace, in one order.

    Also one that isn't ready: somebody may be restoring or releasing it at this moment.
    """
    found: set[tuple[int, str]] = set()
    for namespace, digest in scored:
        query = select(Adapter.pk).join(Version, Version.adapter_pk == Adapter.pk)
        query = query.where(Version.digest == digest, Adapter.namespace == namespace)
        found |= {(pk, namespace) for pk in session.scalars(query.where(Version.state.in_(LIVE)))}
    return sorted(found)
