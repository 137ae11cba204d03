"""Who made some bytes: who trained them, asked for the training, or pushed them. Nobody vouches for their own work.

>>> made = Makers(owners=frozenset({"token:1"}), names=frozenset({"ana"}))
>>> made.include("token:2", "Ana"), made.include("token:1", "ben"), made.include("token:2", "ben")
(True, True, False)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from sqlalchemy import CTE, String, Text, case, cast, literal, select, true, union_all
from sqlalchemy.orm import Session

from registry.access.models import AuditEntry, Token
from registry.catalog.models import Adapter, Origin, Version
from registry.jobs.models import Attempt, Job
from sdk.formats.visible_labels import same_label

#: What the owner of a token's things begins with; see `Principal.owner`.
_OF_TOKENS = "token:"


@dataclass(frozen=True)
class Makers:
    """Whoever made some bytes. Tokens with the same name are one person."""

    #: Each as `Principal.owner`.
    owners: frozenset[str] = frozenset()
    #: Their names, as `same_label` has them.
    names: frozenset[str] = frozenset()

    def include(self, owner: str | None, name: str) -> bool:
        """Whether the holder of a token is one of them; `owner` is None if only the name is known."""
        return owner in self.owners or same_label(name) in self.names


def makers_of(session: Session, digest: str, namespace: str) -> Makers:
    """Return who made the bytes of a version of a namespace; see `makers_of_all`."""
    return makers_of_all(session, [digest], namespace)[digest]


def makers_of_all(session: Session, digests: Collection[str], namespace: str) -> dict[str, Makers]:
    """Return who made each of these digests, under whatever name: a version may be deleted and pushed again, or be copied.

    These are whoever published one, each time; and for one that a job made, who submitted it, and the tokens of the workers
    that tried it; also of the jobs that it repeats, or from whose checkpoints it went on. A name counts only where it was
    given out: in another namespace it may be somebody else's.
    """
    names: defaultdict[str, set[str]] = defaultdict(set)
    owners: defaultdict[str, set[str]] = defaultdict(set)
    theirs: defaultdict[str, set[str]] = defaultdict(set)
    for digest, name in _publishers(session, digests, namespace):
        names[digest].add(same_label(name))
    for digest, space, owner, called in _tokens(session, digests):
        owners[digest].add(owner)
        if space == namespace:
            theirs[digest].add(owner)
            if called is not None:
                names[digest].add(same_label(called))
    holders = _names(session, set().union(*theirs.values()))
    for digest, found in theirs.items():
        names[digest] |= {holders[owner] for owner in found if owner in holders}
    return {digest: Makers(frozenset(owners[digest]), frozenset(names[digest])) for digest in digests}


def _publishers(session: Session, digests: Collection[str], namespace: str) -> Iterator[tuple[str, str]]:
    """Yield digests, and the names of those who published them in the namespace: people, and workers for jobs."""
    here = (Version.digest.in_(digests), Adapter.namespace == namespace)
    joined = select(Version.digest, Version.created_by).join(Adapter, Adapter.pk == Version.adapter_pk).where(*here)
    for digest, name in session.execute(joined.distinct()):
        yield digest, name
    again = joined.with_only_columns(Version.digest, Origin.created_by).join(Origin, Origin.version_pk == Version.pk)
    for digest, name in session.execute(again.distinct()):
        yield digest, name


def _tokens(session: Session, digests: Collection[str]) -> Iterator[tuple[str, str, str, str | None]]:
    """Yield digests, the namespace in which they were made, by whose token, and that one's name if it is recorded."""
    # What somebody else's name means there is not known here, but a token is the same everywhere.
    published = (
        select(Version.digest, Adapter.namespace, AuditEntry.token_id, AuditEntry.actor)
        .join(Adapter, Adapter.pk == Version.adapter_pk)
        .join(AuditEntry, AuditEntry.subject == Adapter.name + "@v" + cast(Version.number, String))
        .where(Version.digest.in_(digests), AuditEntry.action == "version.publish", AuditEntry.token_id.is_not(None))
    )
    for digest, space, token, name in session.execute(published.distinct()):
        yield digest, space, f"{_OF_TOKENS}{token}", name
    jobs = _jobs(digests)
    submitted = select(jobs.c.digest, Job.namespace, Job.owner, Job.created_by).join(Job, Job.id == jobs.c.job)
    for digest, space, owner, name in session.execute(submitted.distinct()):
        # Jobs of the first releases have no owner, but the name of who submitted them.
        yield digest, space, owner or f"name:{name}", name
    tried = select(jobs.c.digest, Job.namespace, Attempt.owner).join(Job, Job.id == jobs.c.job)
    tried = tried.join(Attempt, Attempt.job_id == jobs.c.job).where(Attempt.owner.is_not(None))
    for digest, space, owner in session.execute(tried.distinct()):
        yield digest, space, owner, None


def _jobs(digests: Collection[str]) -> CTE:
    """The jobs that made each digest, and those that they go on from, however many there are in a row."""
    made = select(Version.digest.label("digest"), cast(Origin.job, Text).label("job"))
    made = made.join(Origin, Origin.version_pk == Version.pk)
    jobs = made.where(Version.digest.in_(digests), Origin.job.is_not(None)).cte("made_by", recursive=True)
    # A recursive query may name itself once, and a job has two ways back.
    ways = union_all(select(literal(0).label("way")), select(literal(1).label("way"))).subquery()
    back = case((ways.c.way == 0, Job.retry_of), else_=Job.request["from_checkpoint", "job"].as_string())
    earlier = select(jobs.c.digest, cast(back, Text).label("job")).join(Job, Job.id == jobs.c.job).join(ways, true())
    return jobs.union(earlier.where(back.is_not(None)))


def _names(session: Session, owners: Collection[str]) -> dict[str, str]:
    """Return what the tokens of some owners are called, also of those that have ended."""
    ids = [owner.removeprefix(_OF_TOKENS) for owner in owners if owner.startswith(_OF_TOKENS)]
    rows = session.execute(select(Token.id, Token.name).where(Token.id.in_(ids)))
    return {f"{_OF_TOKENS}{ident}": same_label(name) for ident, name in rows}
