"""From a digest or a name to a dataset, for somebody who may use it. A digest is a digest, and a name is one namespace's.

A text that looks like a digest is never taken for a name, whoever has given one like it.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import ColumnElement, case, func, select
from sqlalchemy.orm import Session, aliased

from registry.access.audit.models import AuditEntry
from registry.datasets.models import DatasetAccess
from registry.errors import Invalid, NotFound
from registry.principal import SYSTEM, Principal
from sdk.formats.refs import digest_digits, looks_like_digest

#: Datasets that an error names at most.
_NAMED = 3


def find_dataset(
    session: Session,
    text: str,
    who: Principal,
    *,
    prefer: str | None = None,
    removed: bool = False,
    param: str = "data",
) -> DatasetAccess:
    """Return a dataset that the caller may use, as a namespace registered it.

    `text` is a whole digest, 12 digits and more of one, or a name. A name is looked up in the namespace `prefer` first,
    then in all that the caller may read, where it must mean one dataset. With `removed`, where there is no other, one
    that was given up is found too. Raises NotFound, Invalid for what fits more than one.
    """
    for among in (usable_by(who), known_to(who)) if removed else (usable_by(who),):
        if looks_like_digest(text):
            found = _by_digest(session, among, text, prefer, param)
        else:
            found = _by_name(session, among, text, prefer, param)
        if found is not None:
            return found
    raise NotFound(
        f"there is no dataset {text[:80]!a}; list them with: adapterctl data list, or add one with: adapterctl data add FILE",
        param=param,
    )


def find_for_job(session: Session, digest: str, *, namespace: str, submitted_at: datetime) -> DatasetAccess:
    """Return the dataset that a job was pinned to, as the job's namespace has it, or else as another one does.

    Raises NotFound if it was given up since: that strangers registered the same bytes is no leave to use them.
    """
    own = session.get(DatasetAccess, (digest, namespace))
    removed_at = _removed_at(session, digest, namespace) if own is None else own.removed_at
    if removed_at is not None and removed_at >= submitted_at:
        raise NotFound(
            f"the dataset {digest[:12]} was removed after the job was submitted; add it again, then submit the job again",
            param="data",
        )
    return find_dataset(session, digest, SYSTEM, prefer=namespace)


def _removed_at(session: Session, digest: str, namespace: str) -> datetime | None:
    """When a namespace gave a dataset up at a server of the previous release, which leaves nothing of it but the trail."""
    trail = select(func.max(AuditEntry.at)).where(AuditEntry.subject == digest, AuditEntry.namespace == namespace)
    return session.scalar(trail.where(AuditEntry.action == "dataset.remove"))


def _by_digest(
    session: Session, among: ColumnElement[bool], text: str, prefer: str | None, param: str
) -> DatasetAccess | None:
    digits, digest = digest_digits(text), DatasetAccess.digest
    if digits is None:
        return None
    # A range of the key, which an index answers; "g" comes after every digit of a digest.
    fits = digest == digits if len(digits) == 64 else digest.between(digits, f"{digits}g")
    digests = session.scalars(select(digest).where(among, fits).distinct().limit(2)).all()
    if len(digests) > 1:
        raise Invalid(f"{text} matches more than one dataset; write more digits", param=param)
    first = case((DatasetAccess.namespace == prefer, 0), else_=1)
    rows = select(DatasetAccess).where(among, digest.in_(digests)).order_by(first, *_ORDER)
    return session.scalars(rows.limit(1)).first()


def _by_name(
    session: Session, among: ColumnElement[bool], name: str, prefer: str | None, param: str
) -> DatasetAccess | None:
    """The newest dataset of a name in the preferred namespace, else the one that the name means in all of them."""
    given = (among, DatasetAccess.name == name)
    # One row a namespace, however often the name was given there.
    newest = (
        select(DatasetAccess.namespace, func.max(DatasetAccess.created_at).label("at"))
        .where(*given)
        .group_by(DatasetAccess.namespace)
        .subquery()
    )
    same = (DatasetAccess.namespace == newest.c.namespace) & (DatasetAccess.created_at == newest.c.at)
    rows = session.scalars(select(DatasetAccess).join(newest, same).where(*given).order_by(*_ORDER)).all()
    own = [row for row in rows if row.namespace == prefer]
    meant = {row.digest: row for row in own[:1] or rows}
    if len(meant) > 1:
        shown = ", ".join(f"{row.digest[:12]} in {row.namespace!r}" for row in list(meant.values())[:_NAMED])
        more = f" and {len(meant) - _NAMED} more" if len(meant) > _NAMED else ""
        raise Invalid(
            f"{name[:80]!a} names several datasets ({shown}{more}); give the digest of the one you mean",
            param=param,
        )
    return next(iter(meant.values()), None)


#: Of several namespaces' rows of one dataset the one that speaks first: usable ones, then the oldest.
_ORDER = (DatasetAccess.removed_at.is_not(None), DatasetAccess.created_at, DatasetAccess.namespace)


def known_to(who: Principal) -> ColumnElement[bool]:
    """The condition that a row is of a namespace that the caller may read, where the dataset may be given up."""
    return who.within(DatasetAccess.namespace)


def usable_by(who: Principal) -> ColumnElement[bool]:
    """The condition that a row lets the caller use its dataset."""
    return known_to(who) & DatasetAccess.removed_at.is_(None)


def spoken_for(who: Principal) -> ColumnElement[bool]:
    """The condition that of all rows of a dataset that the caller may read this is the one that speaks first."""
    other = aliased(DatasetAccess)
    first = (
        select(other.namespace)
        .where(other.digest == DatasetAccess.digest, who.within(other.namespace))
        .order_by(other.removed_at.is_not(None), other.created_at, other.namespace)
        .limit(1)
    )
    return known_to(who) & (DatasetAccess.namespace == first.scalar_subquery())


def readable_rows(session: Session, wanted: Collection[str], who: Principal) -> Collection[str]:
    """Those of these blobs that are datasets which the caller may use."""
    query = select(DatasetAccess.digest).where(DatasetAccess.digest.in_(wanted), usable_by(who))
    return session.scalars(query.distinct()).all()


def is_given(session: Session, digest: str, namespace: str) -> bool:
    """Whether a namespace has a dataset, by its whole digest, and has not given it up."""
    access = session.get(DatasetAccess, (digest, namespace))
    return access is not None and access.removed_at is None
