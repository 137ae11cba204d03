"""Answers where something came from, and what was made from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.catalog.bases.finding import find_visible
from registry.catalog.bases.names import ANYBODYS, Whose
from registry.catalog.models import Adapter, BaseModelRow, Version
from registry.catalog.versions.finding import find_version, parse_ref
from registry.catalog.versions.lifecycle import VersionState
from registry.datasets.finding import find_dataset
from registry.datasets.models import DatasetAccess
from registry.db.database import Database
from registry.errors import NotFound
from registry.lineage.walk import Walk
from registry.principal import Principal
from sdk.formats.refs import Ref
from sdk.schemas.lineage import Direction, Lineage


class Lineages:
    """The service over the graph of bases, datasets, jobs, versions, merged models and evaluations."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def trace(self, *, of: str, direction: Direction, depth: int, who: Principal, whose: Whose = ANYBODYS) -> Lineage:
        """Return the graph around a ref, a base (`base:NAME`) or a dataset (`data:NAME`), up to `depth` steps away.

        Raises InvalidName, InvalidRef, NotFound, and Invalid for a name or digits that mean more than one.
        """
        with self._db.read() as session:
            walk = Walk(session, who)
            kind, colon, name = of.partition(":")
            if colon and kind == "base":
                base = find_visible(session, name, who, whose=whose).base
                walk.add_bases(BaseModelRow.pk == base.pk)
                unfollowed = 0 if direction == "up" else _go(walk.below_base(base), walk.below, depth - 1)
            elif colon and kind == "data":
                digest = find_dataset(session, name, who, removed=True, param="of").row.digest
                walk.add_datasets(DatasetAccess.digest == digest)
                unfollowed = 0 if direction == "up" else _go(walk.below_dataset(digest), walk.below, depth - 1)
            else:
                root = _find_version(session, parse_ref(of), who)
                walk.graph.add_version(root)
                up = _go([root], walk.above, depth) if direction != "down" else 0
                down = _go([root], walk.below, depth) if direction != "up" else 0
                unfollowed = up + down
            return walk.graph.view(direction, depth, aliases=walk.aliases(), unfollowed=unfollowed)


def _go(versions: Sequence[Version], step: Callable[[Sequence[Version]], list[Version]], depth: int) -> int:
    """Walk breadth-first, from each version once; return at how many versions the depth ended the walk."""
    seen: set[int] = set()
    for left in range(depth, -1, -1):
        frontier = list({version.pk: version for version in versions if version.pk not in seen}.values())
        if not frontier or left == 0:
            return len(frontier)
        seen.update(version.pk for version in frontier)
        versions = step(frontier)
    return 0


def _find_version(session: Session, ref: Ref, who: Principal) -> Version:
    """Return the version that a ref names; a number also finds one that was deleted, because its lineage stays."""
    try:
        return find_version(session, ref, who)
    except NotFound:
        # Without a number, the query would find a version that never had one.
        if ref.number is None:
            raise
        deleted = (
            select(Version)
            .join(Version.adapter)
            .where(Adapter.name == ref.adapter, Version.number == ref.number, Version.state == VersionState.DELETED)
            .where(who.within(Adapter.namespace))
        )
        version = session.scalars(deleted).first()
        if version is None:
            raise
        return version
