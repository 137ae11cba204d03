"""From a digest or a name to a dataset, for somebody who may use it. A digest means the same everywhere, a name belongs
to one namespace.

A text that looks like a digest is never taken for a name.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, case, func, select, true
from sqlalchemy.orm import Session, aliased

from registry.datasets.models import DatasetAccess, DatasetNumber
from registry.errors import Invalid, NotFound
from registry.principal import SYSTEM, Principal
from sdk.formats.dataset_names import may_be_digest, split_dataset_name
from sdk.formats.refs import digest_digits, looks_like_digest

#: How many of the names of a dataset in one namespace are shown: it may be given any number.
MOST_NAMES = 100
#: How many datasets an error names at most.
_NAMED = 3


@dataclass(frozen=True)
class FoundDataset:
    """A dataset as a namespace registered it, and the name that it was found by."""

    row: DatasetAccess
    #: None if it was found by its digest.
    name: str | None = None
    number: int | None = None


def find_dataset(
    session: Session,
    text: str,
    who: Principal,
    *,
    prefer: str | None = None,
    only: str | None = None,
    removed: bool = False,
    param: str = "data",
) -> FoundDataset:
    """Return a dataset that the caller may use, as a namespace registered it, and by which name it was found.

    `text` is a whole digest, at least 12 digits of one, `NAME@v2`, or `NAME` for the newest. A name is looked up in the
    namespace `prefer` first, then in all that the caller may read, where it must mean a single dataset. With `only`, what
    other namespaces have doesn't count. With `removed`, one that was given up is found too if there is no other. Raises
    NotFound, and Invalid for what fits more than one, or might be a digest or a name.
    """
    if only is not None:
        who.require("read", only)
    if may_be_digest(text) and not looks_like_digest(text):
        raise Invalid(
            f"{text[:80]!a} may be the beginning of a digest, so it is not looked up as a name; give at least 12 digits of the "
            "digest, which is listed by: adapterctl data list",
            param=param,
        )
    there = true() if only is None else DatasetAccess.namespace == only
    for among in (usable_by(who) & there, known_to(who) & there) if removed else (usable_by(who) & there,):
        if looks_like_digest(text):
            found = _by_digest(session, among, text, prefer, param)
        else:
            found = _by_name(session, among, text, prefer, param)
        if found is not None:
            return found
    where = "" if only is None else f" in the namespace {only!r}"
    raise NotFound(
        f"there is no dataset {text[:80]!a}{where}; list them with: adapterctl data list, or add one with: adapterctl data add FILE",
        param=param,
    )


def find_for_job(session: Session, digest: str, *, namespace: str, submitted_at: datetime) -> DatasetAccess:
    """Return the dataset that a job was pinned to, as the job's namespace has it, or else as another one has it.

    Raises NotFound if it has been given up since: that strangers registered the same bytes gives no right to use them.
    """
    own = session.get(DatasetAccess, (digest, namespace))
    if own is not None and own.removed_at is not None and own.removed_at >= submitted_at:
        raise NotFound(
            f"the dataset {digest[:12]} was removed after the job was submitted; add it again, then submit the job again",
            param="data",
        )
    return find_dataset(session, digest, SYSTEM, prefer=namespace).row


def _by_digest(
    session: Session, among: ColumnElement[bool], text: str, prefer: str | None, param: str
) -> FoundDataset | None:
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
    row = session.scalars(rows.limit(1)).first()
    return None if row is None else FoundDataset(row)


def _by_name(
    session: Session, among: ColumnElement[bool], text: str, prefer: str | None, param: str
) -> FoundDataset | None:
    """The dataset of a name in the preferred namespace, else the one that the name means in all of them."""
    name, number = split_dataset_name(text)
    rows = _called(session, among, name, number)
    own = [found for found in rows if found.row.namespace == prefer]
    meant = {found.row.digest: found for found in own or rows}
    if len(meant) > 1:
        shown = ", ".join(
            f"{found.row.digest[:12]} in {found.row.namespace!r}" for found in list(meant.values())[:_NAMED]
        )
        more = f" and {len(meant) - _NAMED} more" if len(meant) > _NAMED else ""
        raise Invalid(
            f"{text[:80]!a} names several datasets ({shown}{more}); give the digest of the one you mean",
            param=param,
        )
    return next(iter(meant.values()), None)


def _called(session: Session, among: ColumnElement[bool], name: str, number: int | None) -> list[FoundDataset]:
    """The datasets that namespaces call so: one of each, with this number, or else the newest."""
    given = [among, DatasetNumber.name == name]
    if number is not None:
        given.append(DatasetNumber.number == number)
    same = (DatasetAccess.digest == DatasetNumber.digest) & (DatasetAccess.namespace == DatasetNumber.namespace)
    # One row per namespace, however often the name was given there.
    newest = (
        select(DatasetNumber.namespace, func.max(DatasetNumber.number).label("number"))
        .join(DatasetAccess, same)
        .where(*given)
        .group_by(DatasetNumber.namespace)
        .subquery()
    )
    meant_there = (DatasetNumber.namespace == newest.c.namespace) & (DatasetNumber.number == newest.c.number)
    query = (
        select(DatasetAccess, DatasetNumber.number)
        .join(DatasetNumber, same)
        .join(newest, meant_there)
        .where(*given)
        .order_by(*_ORDER)
    )
    return [FoundDataset(row, name, at) for row, at in session.execute(query)]


#: Which row counts first if several namespaces have one for the same dataset: usable ones, then the oldest.
_ORDER = (DatasetAccess.removed_at.is_not(None), DatasetAccess.created_at, DatasetAccess.namespace)


def known_to(who: Principal) -> ColumnElement[bool]:
    """The condition that a row is of a namespace that the caller may read; the dataset may have been given up there."""
    return who.within(DatasetAccess.namespace)


def usable_by(who: Principal) -> ColumnElement[bool]:
    """The condition that a row lets the caller use its dataset."""
    return known_to(who) & DatasetAccess.removed_at.is_(None)


def spoken_for(who: Principal) -> ColumnElement[bool]:
    """The condition that this row comes first among the rows of a dataset that the caller may read."""
    other = aliased(DatasetAccess)
    first = (
        select(other.namespace)
        .where(other.digest == DatasetAccess.digest, who.within(other.namespace))
        .order_by(other.removed_at.is_not(None), other.created_at, other.namespace)
        .limit(1)
    )
    return known_to(who) & (DatasetAccess.namespace == first.scalar_subquery())


def readable_rows(session: Session, wanted: Collection[str], who: Principal) -> Collection[str]:
    """Those of these blobs that are datasets that the caller may use."""
    query = select(DatasetAccess.digest).where(DatasetAccess.digest.in_(wanted), usable_by(who))
    return session.scalars(query.distinct()).all()


def names_of(session: Session, rows: Collection[DatasetAccess]) -> dict[tuple[str, str], list[DatasetNumber]]:
    """The last names that namespaces gave to datasets, the newest first, by digest and namespace."""
    digests = {row.digest for row in rows}
    order = (DatasetNumber.created_at.desc(), DatasetNumber.name)
    place = func.row_number().over(partition_by=(DatasetNumber.digest, DatasetNumber.namespace), order_by=order)
    given = select(DatasetNumber, place.label("place")).where(
        DatasetNumber.digest.in_(digests), DatasetNumber.namespace.in_({row.namespace for row in rows})
    )
    numbered = given.subquery()
    last = aliased(DatasetNumber, numbered)
    query = select(last).where(numbered.c.place <= MOST_NAMES)
    found: dict[tuple[str, str], list[DatasetNumber]] = {}
    for number in session.scalars(query.order_by(last.created_at.desc(), last.name)):
        found.setdefault((number.digest, number.namespace), []).append(number)
    return found


def first_names(session: Session, digests: Collection[str], who: Principal) -> dict[str, str]:
    """The first name, `NAME@vN`, that a namespace which the caller may read gave to each of these datasets, by digest."""
    order = (DatasetNumber.created_at, DatasetNumber.namespace, DatasetNumber.name, DatasetNumber.number)
    place = func.row_number().over(partition_by=DatasetNumber.digest, order_by=order)
    columns = (DatasetNumber.digest, DatasetNumber.name, DatasetNumber.number)
    given = DatasetNumber.digest.in_(digests) & who.within(DatasetNumber.namespace)
    numbered = select(*columns, place.label("place")).where(given).subquery()
    first = select(numbered.c.digest, numbered.c.name, numbered.c.number).where(numbered.c.place == 1)
    return {digest: f"{name}@v{number}" for digest, name, number in session.execute(first)}


def is_given(session: Session, digest: str, namespace: str) -> bool:
    """Whether a namespace has a dataset, by its whole digest, and has not given it up."""
    access = session.get(DatasetAccess, (digest, namespace))
    return access is not None and access.removed_at is None


def is_named(session: Session, digest: str, namespace: str, text: str) -> bool:
    """Whether `NAME@v2` means a dataset, by its whole digest, in a namespace."""
    name, number = split_dataset_name(text)
    found = None if number is None else session.get(DatasetNumber, (namespace, name, number))
    return found is not None and found.digest == digest
