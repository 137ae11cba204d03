"""What the page of an adapter shows, read from the services of other rooms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from registry.catalog.aliases.service import Aliases
from registry.catalog.versions.finding import space_of
from registry.catalog.versions.service import Catalog
from registry.db.database import Database
from registry.db.paging import Paged
from registry.errors import NotFound
from registry.evaluations.version_scores import AdapterScores, ScoreKind, VersionScores
from registry.principal import Principal
from registry.promotion.approvals import Approvals
from registry.search.adapters import FIRST_ALIAS
from registry.web.adapters.chart import ScoreChart
from registry.web.naming import NamedDatasets
from sdk.schemas.aliases import AliasMoveView, AliasView
from sdk.schemas.catalog import VersionView

#: How many versions, aliases and moves are on a page.
VERSIONS, ALIASES, MOVES, MOST_MOVES = 50, 50, 8, 100


@dataclass(frozen=True)
class AdapterRights:
    """What the reader may do with an adapter."""

    write: bool
    promote: bool

    def move(self, alias: AliasView) -> bool:
        """Whether they may say what an alias names."""
        return self.promote or (self.write and not alias.protected)


@dataclass(frozen=True)
class ShownAdapter:
    """An adapter as its page shows it."""

    name: str
    namespace: str
    #: The newest version on this page, which says what all are over.
    newest: VersionView | None
    aliases: Sequence[AliasView]
    more_aliases: int
    #: The one that a form has just moved.
    moved: AliasView | None
    versions: Paged[VersionView]
    scores: AdapterScores
    chart: ScoreChart | None
    #: By digest.
    dataset_names: Mapping[str, str]
    moves: Paged[AliasMoveView]
    rights: AdapterRights
    #: The aliases for which a policy stands; none are looked up for those who may not approve.
    judged: Sequence[str]


@dataclass(frozen=True)
class MovableAliases:
    """Aliases that a reader may move, or give."""

    names: Sequence[str]
    #: Whether they may ask what the policies say.
    may_check: bool


class AdapterPages:
    """The service of the pages of adapters."""

    def __init__(
        self,
        db: Database,
        catalog: Catalog,
        aliases: Aliases,
        scores: VersionScores,
        approvals: Approvals,
        names: NamedDatasets,
    ) -> None:
        self._db = db
        self._catalog, self._aliases, self._scores = catalog, aliases, scores
        self._approvals, self._names = approvals, names

    def adapter(
        self,
        *,
        name: str,
        score: str | None,
        archived: bool,
        who: Principal,
        cursor: str | None,
        moved: str | None = None,
    ) -> ShownAdapter:
        """One page of an adapter's versions, with all that stands around them. Raises InvalidName, NotFound, Invalid."""
        kind = None if score is None else ScoreKind.parse(score)
        if score is not None and kind is None:
            raise NotFound(f"there are no scores {score[:80]!a}; choose some on the page of {name}", param="score")
        with self._db.one_state():
            versions = self._catalog.versions(adapter=name, archived=archived, who=who, cursor=cursor, limit=VERSIONS)
            # A name that it found is one.
            rights = _rights(name, who)
            # Protected ones after the one that runs: they are what others rely on.
            aliases = sorted(
                self._aliases.list(adapter=name, who=who),
                key=lambda one: (one.alias != FIRST_ALIAS, not one.protected, one.alias),
            )
            shown = aliases[:ALIASES]
            numbers = {one.number or 0 for one in versions.items} | {one.number for one in shown}
            scores = self._scores.of_adapter(adapter=name, kind=kind, numbers=numbers, who=who)
            names = self._names.of({kind.dataset for kind in scores.offered}, who=who)
            moves = self._aliases.history(adapter=name, alias=None, who=who, limit=MOVES)
            judged = self._judged(name, rights, who)
        marked = {one.number: one.alias for one in reversed(shown)}
        return ShownAdapter(
            name=name,
            namespace=space_of(name),
            newest=versions.items[0] if versions.items else None,
            aliases=shown,
            more_aliases=len(aliases) - len(shown),
            moved=next((one for one in aliases if one.alias == moved), None),
            versions=versions,
            scores=scores,
            chart=None if scores.kind is None else ScoreChart.of(scores.points, last=scores.last_number, marked=marked),
            dataset_names=names,
            moves=moves,
            rights=rights,
            judged=judged,
        )

    def movable(self, *, adapter: str, who: Principal) -> MovableAliases:
        """The aliases that a reader may let name a version. Raises InvalidName, NotFound."""
        rights = _rights(adapter, who)
        there = [one.alias for one in self._aliases.list(adapter=adapter, who=who) if rights.move(one)]
        judged = self._judged(adapter, rights, who)
        names = sorted({FIRST_ALIAS, *there, *judged}, key=lambda alias: (alias != FIRST_ALIAS, alias))
        return MovableAliases(names[:ALIASES], rights.promote)

    def _judged(self, adapter: str, rights: AdapterRights, who: Principal) -> Sequence[str]:
        return self._approvals.judged(adapter=adapter, who=who) if rights.promote else []

    def history(self, *, adapter: str, alias: str | None, who: Principal, cursor: str | None) -> Paged[AliasMoveView]:
        """The moves of an adapter's aliases, or of one, newest first. Raises InvalidName, NotFound, Invalid."""
        return self._aliases.history(adapter=adapter, alias=alias, who=who, cursor=cursor, limit=MOST_MOVES)


def _rights(adapter: str, who: Principal) -> AdapterRights:
    space = space_of(adapter)
    return AdapterRights(who.may("write", space), who.may("promote", space))
