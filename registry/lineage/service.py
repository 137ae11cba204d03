"""Answering where something came from, and what came of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from sqlalchemy import ColumnElement, or_, select
from sqlalchemy.orm import Session

from registry.auth.principal import Principal
from registry.catalog.bases import find_base
from registry.catalog.lifecycle import VersionState
from registry.catalog.models import Adapter, Version
from registry.catalog.resolve import find_version, parse_ref
from registry.datasets.models import Dataset
from registry.db import Database
from registry.errors import Invalid, NotFound
from registry.lineage.walk import Walk, datasets_of
from sdk.schemas.lineage import Direction, Lineage
from sdk.schemas.refs import Ref


class Lineages:
    """The service over the graph of bases, datasets, jobs, versions, merged models and evaluations."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def trace(self, *, of: str, direction: Direction, depth: int, who: Principal) -> Lineage:
        """Return the graph around a ref, a base (`base:NAME`) or a dataset (`data:NAME`), up to `depth` steps away.

        Raises InvalidName, InvalidRef, NotFound, and Invalid for digits that fit more than one.
        """
        with self._db.read() as session:
            walk = Walk(session, who)
            kind, colon, name = of.partition(":")
            if colon and kind == "base":
                unfollowed = _from_base(session, walk, name, direction, depth)
            elif colon and kind == "data":
                unfollowed = _from_dataset(session, walk, name, direction, depth, who)
            else:
                root = _find_version(session, parse_ref(of), who)
                walk.graph.add_version(root)
                up = _go([root], walk.above, depth) if direction != "down" else 0
                down = _go([root], walk.below, depth) if direction != "up" else 0
                unfollowed = up + down
            return walk.graph.view(direction, depth, aliases=walk.aliases(), unfollowed=unfollowed)


def _from_base(session: Session, walk: Walk, name: str, direction: Direction, depth: int) -> int:
    base = find_base(session, name)
    walk.add_base(base)
    return 0 if direction == "up" else _go(walk.below_base(base), walk.below, depth - 1)


def _from_dataset(session: Session, walk: Walk, name: str, direction: Direction, depth: int, who: Principal) -> int:
    digest = _find_dataset(session, name, who)
    walk.add_dataset(digest)
    return 0 if direction == "up" else _go(walk.below_dataset(digest), walk.below, depth - 1)


def _go(versions: Sequence[Version], step: Callable[[Sequence[Version]], list[Version]], depth: int) -> int:
    """Walk breadth-first, from each version once; return from how many the depth let it go no further."""
    seen: set[int] = set()
    for left in range(depth, -1, -1):
        frontier = list({version.pk: version for version in versions if version.pk not in seen}.values())
        if not frontier or left == 0:
            return len(frontier)
        seen.update(version.pk for version in frontier)
        versions = step(frontier)
    return 0


def _find_version(session: Session, ref: Ref, who: Principal) -> Version:
    """Return the version that a ref names; by its number also one that was deleted, whose lineage stays."""
    deleted = (
        select(Version)
        .join(Version.adapter)
        .where(Adapter.name == ref.adapter, Version.number == ref.number, Version.state == VersionState.DELETED)
        .where(who.within(Adapter.namespace))
    )
    return session.scalars(deleted).first() or find_version(session, ref, who)


def _find_dataset(session: Session, name: str, who: Principal) -> str:
    """Return the digest of the newest dataset of a name, or of the one with these digits, which may be removed.

    Raises NotFound, Invalid.
    """
    usable = datasets_of(who)
    named: ColumnElement[bool] = usable & (Dataset.name == name)
    if re.fullmatch(r"[0-9a-f]{12,64}", name):
        known = or_(usable, Dataset.removed_at.is_not(None))
        # A range of the key, which takes the index; "g" comes after every digit of a digest.
        named = or_(named, known & Dataset.digest.between(name, f"{name}g"))
    query = select(Dataset.digest, Dataset.name).where(named)
    found = session.execute(query.order_by(Dataset.removed_at.is_not(None), Dataset.created_at.desc()).limit(2)).all()
    if not found:
        raise NotFound(f"there is no dataset {name[:80]!a}; list them with: adapterctl data list", param="of")
    if len(found) > 1 and found[0].name != name:
        raise Invalid(f"{name} fits more than one dataset; write more digits", param="of")
    digest: str = found[0].digest
    return digest
