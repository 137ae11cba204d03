"""Which workers there are, and for whom: each works where its token may work, and nobody else can rely on it or see
it.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, exists, func, or_, select, true
from sqlalchemy.orm import Session

from registry.access.models import Grant, Token, in_use
from registry.db.types import db_now
from registry.jobs.models import Attempt, Job, Worker
from registry.principal import EVERYWHERE, LOCAL, SYSTEM, Principal, roles_of
from sdk.schemas.jobs import JobState

#: A worker not heard from for this long is not relied on.
SILENT_AFTER = timedelta(seconds=90)
#: A worker not heard from for this long is forgotten, and no longer vouches for the folders that it shared.
FORGOTTEN_AFTER = timedelta(days=7)

#: What a tracker's name begins with where it stands among those of fields and scorers.
TRACKER = ":"
#: Owners that are not tokens: they work in every namespace.
_WITHOUT_TOKEN = (LOCAL.owner, SYSTEM.owner)
#: The id of a worker's token, as `Principal.owner` wraps it.
_TOKEN_ID = func.substr(Worker.owner, len("token:") + 1)


@dataclass(frozen=True)
class AvailableWorker:
    """A worker that was heard from recently and takes jobs."""

    owner: str
    name: str
    device: str
    #: 0 if its system does not say.
    memory_bytes: int
    free_memory_bytes: int
    queues: list[str]
    version: str
    #: The fields of requests that it knows.
    fields: frozenset[str]
    #: Each `ScorerInfo` that it has; None if it doesn't say.
    scorers: list[dict[str, Any]] | None
    #: The trackers whose libraries it has.
    trackers: frozenset[str]
    #: The namespaces in which its token may work; "*" is all of them.
    spaces: frozenset[str]

    @property
    def scorer_names(self) -> set[str]:
        """The names of its scorers."""
        return {each["name"] for each in self.scorers or ()}

    def may_have(self, scorers: Set[str]) -> bool:
        """Whether it has all of some scorers, or doesn't say what it has."""
        return self.scorers is None or scorers <= self.scorer_names

    def takes(self, job: Job) -> bool:
        """Whether it may be given jobs of this queue and namespace at all."""
        return self.serves(job.queue, job.namespace)

    def serves(self, queue: str, namespace: str) -> bool:
        """Whether it may be given jobs of a queue and a namespace at all."""
        return queue in self.queues and not self.spaces.isdisjoint((namespace, EVERYWHERE))


def works_in(namespaces: Iterable[str]) -> ColumnElement[bool]:
    """The condition that a worker's token may work in one of these namespaces, or everywhere."""
    granted = exists().where(_may_work(), Grant.token_id == _TOKEN_ID, Grant.namespace.in_([*namespaces, EVERYWHERE]))
    return or_(Worker.owner.in_(_WITHOUT_TOKEN), granted.correlate(Worker))


def seen_by(who: Principal) -> ColumnElement[bool]:
    """The condition that somebody may know about a worker: it works in a namespace that they may read."""
    namespaces = who.namespaces()
    return true() if namespaces is None else works_in(namespaces)


def available_workers(session: Session, who: Principal = SYSTEM) -> list[AvailableWorker]:
    """Return the workers that were heard from recently, take jobs, and are visible to the caller."""
    return _workers(session, Worker.seen_at > db_now(session) - SILENT_AFTER, Worker.draining.is_(False), seen_by(who))


def lately_seen_workers(session: Session) -> list[AvailableWorker]:
    """Return the workers seen in the last week, also those that have left or are silent: they may come back."""
    return _workers(session, Worker.seen_at > db_now(session) - FORGOTTEN_AFTER)


def _workers(session: Session, *which: ColumnElement[bool]) -> list[AvailableWorker]:
    named = ("owner", "name", "device", "memory_bytes", "free_memory_bytes", "queues", "version")
    columns = [getattr(Worker, name) for name in named]
    query = select(*columns, Worker.knows).where(*which).order_by(Worker.name, Worker.owner)
    rows = session.execute(query).all()
    spaces = spaces_of(session, {row.owner for row in rows})
    return [
        AvailableWorker(
            **{name: getattr(row, name) for name in named},
            fields=fields_among(row.knows),
            scorers=scorers_among(row.knows),
            trackers=trackers_among(row.knows),
            spaces=spaces[row.owner],
        )
        for row in rows
    ]


def fields_among(knows: list[str | dict[str, Any] | None] | None) -> frozenset[str]:
    """Return the fields that a worker knows, by what its row has."""
    return frozenset(each for each in knows or () if isinstance(each, str) and not each.startswith(TRACKER))


def trackers_among(knows: list[str | dict[str, Any] | None] | None) -> frozenset[str]:
    """Return the trackers that a worker has, by what its row has."""
    return frozenset(
        each.removeprefix(TRACKER) for each in knows or () if isinstance(each, str) and each.startswith(TRACKER)
    )


def scorers_among(knows: list[str | dict[str, Any] | None] | None) -> list[dict[str, Any]] | None:
    """Return the scorers that a worker has, by what its row has; None if it doesn't say."""
    if knows is None or None in knows:
        return None
    return [each for each in knows if isinstance(each, dict)]


def spaces_of(session: Session, owners: set[str]) -> dict[str, frozenset[str]]:
    """The namespaces in which the workers of each owner work."""
    found: dict[str, set[str]] = {owner: {EVERYWHERE} if owner in _WITHOUT_TOKEN else set() for owner in owners}
    tokens = {owner.partition(":")[2]: owner for owner in owners if owner not in _WITHOUT_TOKEN}
    grants = select(Grant.token_id, Grant.namespace).join(Token, _may_work()).where(Grant.token_id.in_(tokens))
    for token_id, namespace in session.execute(grants) if tokens else ():
        found[tokens[token_id]].add(namespace)
    return {owner: frozenset(namespaces) for owner, namespaces in found.items()}


def _may_work() -> ColumnElement[bool]:
    """The condition that a token is in use, and may work in the grant's namespace."""
    return and_(Token.id == Grant.token_id, in_use(), Grant.role.in_(roles_of("work")))


def running_on(session: Session) -> dict[tuple[str, str], tuple[str, str]]:
    """Owner and name of each worker that holds a job, with the job's id and namespace."""
    query = (
        select(Attempt.owner, Job.worker, Job.id, Job.namespace)
        .outerjoin(Attempt, and_(Attempt.job_id == Job.id, Attempt.attempt == Job.attempt))
        .where(Job.state == JobState.RUNNING)
    )
    return {(owner or "", name or ""): (job_id, space) for owner, name, job_id, space in session.execute(query)}
