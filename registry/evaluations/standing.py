"""Whose scores count for a version, or for a bare base. Every query for the scores of something asks here.

Anybody may have the same bytes as a version of another namespace, and a worker of their own that hands in any scores for
them. So a version's scores are those that jobs of its own namespace made, whatever else the reader may read. A bare base
has no namespace: its scores are those of the namespace of the versions that it is compared with. Scores of others are
shown when they are asked for by their namespace, and each view says whose they are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from contextlib import suppress
from typing import Annotated, Any

from pydantic import Field
from sqlalchemy import ColumnElement, and_, false, or_, select
from sqlalchemy.orm import Session

from registry.catalog.models import Adapter, Version
from registry.errors import Forbidden, Invalid
from registry.evaluations.models import Evaluation, EvaluationMetric, LatestScore
from registry.jobs.models import Checkpoint, Job
from registry.principal import EVERYWHERE, Principal

#: As `scores_of`: the scores that any namespace made, as far as the caller may read them.
EVERYBODY = EVERYWHERE

#: Whose scores are meant.
ScoresOf = Annotated[
    str | None,
    Field(
        min_length=1,
        max_length=64,
        description="Take the scores that jobs of this namespace made; `*`: of all that you may read, the newest first. Without it, a version's scores are those that its own namespace made.",
        examples=["team"],
    ),
]
Scores = type[Evaluation] | type[EvaluationMetric] | type[LatestScore]
Condition = ColumnElement[bool]


def made_in(scores: Scores, namespace: Any, who: Principal, scores_of: str | None = None) -> Condition:
    """The condition that scores were made in a namespace, which may be a column, or in those of `scores_of` instead.

    Raises NotFound for the scores of a namespace that the caller may not read.
    """
    if scores_of == EVERYBODY:
        return who.within(scores.namespace)
    if scores_of is not None:
        who.require(
            "read",
            scores_of,
            missing=f"this token may not read the scores of a namespace {scores_of[:64]!a}; use '*' for those of all that it may",
            param="scores_of",
        )
    made: Condition = scores.namespace == (namespace if scores_of is None else scores_of)
    return and_(made, who.within(scores.namespace))


def of_version(
    scores: Scores, who: Principal, *, digest: Any, namespace: Any, scores_of: str | None = None
) -> Condition:
    """The condition that scores count for a version with these bytes in this namespace; both may be columns.

    Raises NotFound for the scores of a namespace that the caller may not read.
    """
    return and_(scores.digest == digest, made_in(scores, namespace, who, scores_of))


def of_versions(versions: Iterable[tuple[str, str]], who: Principal, scores_of: str | None = None) -> Condition:
    """The condition that an evaluation counts for one of some versions, each as its digest and its namespace.

    Raises NotFound for the scores of a namespace that the caller may not read.
    """
    digests: dict[str, set[str]] = defaultdict(set)
    for digest, namespace in versions:
        digests[namespace].add(digest)
    every = Evaluation.digest.in_(sorted(set().union(*digests.values())))
    if scores_of is not None:
        return and_(every, made_in(Evaluation, None, who, scores_of))
    each = (
        and_(Evaluation.digest.in_(sorted(found)), made_in(Evaluation, namespace, who))
        for namespace, found in sorted(digests.items())
    )
    # Whatever the namespaces are, the index of digests answers it.
    return and_(every, or_(false(), *each))


def of_bytes(session: Session, who: Principal, digest: str) -> Condition:
    """The condition that an evaluation counts for the version, or the member of a sweep, that has these bytes, of which only
    they were named.

    Raises Invalid if several namespaces have them: any of these could have been meant.
    """
    versions = select(Adapter.namespace).join(Version, Version.adapter_pk == Adapter.pk)
    versions = versions.where(Version.digest == digest, who.within(Adapter.namespace))
    members = select(Job.namespace).join(Checkpoint, Checkpoint.job_id == Job.id)
    members = members.where(Checkpoint.manifest_digest == digest, who.within(Job.namespace))
    namespaces = sorted(session.scalars(versions.union(members)))
    if len(namespaces) > 1:
        named = ", ".join(namespaces[:4]) + (" …" if len(namespaces) > 4 else "")
        raise Invalid(
            f"versions of several namespaces have these bytes ({named}); say whose scores are meant, by its namespace",
            param="namespace",
        )
    return of_versions(((digest, namespace) for namespace in namespaces), who)


def of_base(who: Principal, fingerprint: str, *, namespace: str | None, scores_of: str | None = None) -> Condition:
    """The condition that an evaluation counts for a bare base, where those of a namespace do.

    Raises NotFound for the scores of a namespace that the caller may not read.
    """
    return and_(of_any_base(fingerprint), made_in(Evaluation, namespace, who, scores_of))


def of_any_base(*fingerprints: str) -> Condition:
    """The condition that an evaluation is of one of some bare bases, whoever made it; for lists that say who did."""
    return and_(Evaluation.digest.is_(None), Evaluation.base_fingerprint.in_(fingerprints))


def space_of_bases(versions: Collection[str], who: Principal) -> str:
    """The namespace whose scores count for bare bases beside versions of some namespaces; without versions, the one in
    which the caller's own evaluation of a base would be.

    Raises Invalid for versions of several namespaces, of which each may have its own scores of a base.
    """
    if len(versions) > 1:
        raise Invalid(
            f"these versions are in several namespaces ({', '.join(sorted(versions))}), each of which has its own scores of a base; "
            "compare the base with versions of one, or say whose scores to compare: --scores-of NAMESPACE",
            param="scores_of",
        )
    for namespace in versions:
        return namespace
    with suppress(Forbidden):
        return who.home("write")
    return who.home("read")
