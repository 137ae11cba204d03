"""Lets go of checkpoints that were kept for jobs: once these have ended, and no sweep wants them either."""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import timedelta

from sqlalchemy import String, cast, delete, select, update
from sqlalchemy.orm import Session

from registry.artifacts.models import ManifestRow
from registry.artifacts.stored_blobs import hold_access
from registry.catalog.versions.version_states import close_files, is_live_in
from registry.db.stored_json import table
from registry.db.types import db_now
from registry.jobs.checkpoint_pins import NEWEST_FIRST
from registry.jobs.lifecycle import UNFINISHED
from registry.jobs.members import IS_RESULT, has_member_with
from registry.jobs.models import Checkpoint, Job
from registry.usage.charging import charge
from sdk.formats.refs import BadNameError, BadRefError, MemberRef, parse_ref_or_member

#: Gives up the scores of a namespace by row for what nothing there has any more, given with its digest. The room of
#: evaluations does it.
GiveUpScores = Callable[[Session, str, str], None]
#: Locks sweeps, so that none of them ends until the transaction does, and returns those that still want the checkpoints of
#: their members. The room of sweeps does it.
SweepsWanting = Callable[[Session, Collection[str]], Collection[str]]

_Key = tuple[str, int]


def let_go(session: Session, *, kept: timedelta, wanting: SweepsWanting) -> None:
    """Set an expiry for those that were kept for jobs that have ended by now. The last one of a job has none, unless it is
    what a member has kept of a sweep that no longer wants it.
    """
    of_sweeps = select(Job.sweep).join(Checkpoint, Checkpoint.job_id == Job.id).where(Checkpoint.kept)
    sweeps = {sweep for sweep in session.scalars(of_sweeps.distinct()) if sweep is not None}
    # Before the checkpoints, as a sweep that ends locks them.
    wanted = set(wanting(session, sweeps)) if sweeps else set()
    columns = (Checkpoint.job_id, Checkpoint.step, Job.sweep, Job.sweep_number, IS_RESULT.label("is_result"))
    query = select(*columns).join(Job, Job.id == Checkpoint.job_id).where(Checkpoint.kept)
    rows = session.execute(query.with_for_update(of=Checkpoint)).all()
    if not rows:
        return
    # Read while holding the locks: a transaction that names one of these has either done so, or waits.
    resumed, scored = _resumed(session), _scored(session) if any(row.is_result for row in rows) else set()
    now = db_now(session)
    for row in rows:
        if (row.job_id, str(row.step)) in resumed:
            continue
        if row.is_result:
            if MemberRef(row.sweep, row.sweep_number) in scored or row.sweep not in sweeps:
                continue
            end = None if row.sweep in wanted else now
        else:
            end = None if _is_last(session, row.job_id, row.step) else now + kept
        of = (Checkpoint.job_id == row.job_id, Checkpoint.step == row.step)
        session.execute(update(Checkpoint).where(*of).values(kept=False, expires_at=end))


def remove_expired(session: Session, *, give_up_scores: GiveUpScores) -> int:
    """Remove the checkpoints that have expired, with the scores of members that nothing has any more. Return how many."""
    over = delete(Checkpoint).where(Checkpoint.expires_at < db_now(session))
    columns = (Checkpoint.job_id, Checkpoint.manifest_digest, Checkpoint.size_bytes, Checkpoint.record_bytes)
    gone = session.execute(over.returning(*columns)).all()
    if not gone:
        return 0
    jobs = select(Job.id, Job.namespace).where(Job.id.in_({row.job_id for row in gone}))
    namespaces = {row.id: row.namespace for row in session.execute(jobs)}
    for row in gone:
        charge(session, namespaces[row.job_id], checkpoints=-row.size_bytes, records=-row.record_bytes)
    digests = {row.manifest_digest for row in gone}
    adapters = select(ManifestRow.digest).where(ManifestRow.digest.in_(digests), ManifestRow.kind == "adapter")
    results = set(session.scalars(adapters))
    of_members = {(row.manifest_digest, namespaces[row.job_id]) for row in gone if row.manifest_digest in results}
    for digest, namespace in sorted(of_members):
        # Nobody publishes it at this moment, and relies on the access that there is.
        hold_access(session, digest)
        if not (is_live_in(session, namespace, digest) or has_member_with(session, namespace, digest)):
            close_files(session, namespace, digest)
            give_up_scores(session, namespace, digest)
    return len(gone)


def _is_last(session: Session, job_id: str, step: int) -> bool:
    last = select(Checkpoint.step).where(Checkpoint.job_id == job_id).order_by(*NEWEST_FIRST).limit(1)
    return session.scalar(last) == step


def _resumed(session: Session) -> set[tuple[str, str]]:
    """The jobs and steps of the checkpoints from which trainings that wait or run start."""
    job, step = (Job.request[("from_checkpoint", name)].as_string() for name in ("job", "step"))
    waiting = (Job.state.in_(UNFINISHED), job.is_not(None))
    return {(row[0], row[1]) for row in session.execute(select(job, step).where(*waiting))}


def _scored(session: Session) -> set[MemberRef]:
    """The members that evaluations that wait or run name."""
    names_any = cast(Job.request, String).contains('"sweep:')
    query = select(Job.request).where(Job.kind == "evaluation", Job.state.in_(UNFINISHED), names_any)
    refs = (target.get("ref") for request in session.scalars(query) for target in table(request).get("targets", ()))
    return {member for ref in refs if isinstance(ref, str) and (member := _member(ref)) is not None}


def _member(ref: str) -> MemberRef | None:
    try:
        found = parse_ref_or_member(ref)
    except (BadNameError, BadRefError):
        return None
    return found if isinstance(found, MemberRef) else None
