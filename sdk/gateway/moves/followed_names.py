"""The names that are kept moving: what each means now, and what the table says it is to mean."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence

from sdk.gateway.moves.versions import PlacedVersion
from sdk.gateway.tables.model_names import ModelNames, NamedVersion, is_exact
from sdk.schemas.serving import ServedAdapter

#: Names that are kept moving; the aliases beyond these are loaded when they are asked for.
_MOST_FOLLOWED = 64


class FollowedName:
    """A name that is kept moving."""

    def __init__(self, name: str) -> None:
        self.name = name
        #: The version that requests get.
        self.current: PlacedVersion | None = None
        #: What the table says, and since when.
        self.wanted: NamedVersion | None = None
        self.seen = time.time()


class FollowedNames:
    """Those of some refs, by the last table."""

    def __init__(self, refs: Sequence[str]) -> None:
        """`refs`: `NAME@ALIAS`, `NAME@vN`, or `NAME` with all of its aliases."""
        self._refs = tuple(refs)
        self._scope = {ref.partition("@")[0] for ref in refs}
        self._adapters: dict[str, ServedAdapter] = {}
        self._names: dict[str, FollowedName] = {}
        #: What all names mean by the table, also those that are not kept moving.
        self.table = ModelNames(())

    def update(self, adapters: Iterable[ServedAdapter]) -> frozenset[str]:
        """Take a new table; return the adapters of which it says something else than the last one."""
        before = self._adapters
        self._adapters = {each.name: each for each in adapters if each.name in self._scope}
        self.table = ModelNames(self._adapters.values())
        followed = [name for ref in self._refs for name in self.table.followed(ref)][:_MOST_FOLLOWED]
        self._names = {name: self._names.get(name) or FollowedName(name) for name in followed}
        either = before.keys() | self._adapters.keys()
        return frozenset(name for name in either if before.get(name) != self._adapters.get(name))

    def __iter__(self) -> Iterator[FollowedName]:
        """Yield them."""
        return iter(self._names.values())

    def get(self, name: str) -> FollowedName | None:
        """Return one; None if it isn't kept moving."""
        return self._names.get(name)

    def mean(self, placed: PlacedVersion) -> bool:
        """Whether one of them means a version, or is to."""
        return any(name.current is placed or placed.is_of(name.wanted) for name in self)

    def of(self, placed: PlacedVersion) -> tuple[str, ...]:
        """Return those that mean a version now."""
        return tuple(name.name for name in self if name.current is placed)


def why_not_moved(named: NamedVersion, model: str) -> str | None:
    """Say why a name isn't moved to a version; None if it may be."""
    if named.version.state == "ready" or is_exact(model):
        return None
    return f"{named.name} is archived; restore it with: adapterctl restore {named.name}, or ask for it by its number"
