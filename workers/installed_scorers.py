"""Which of users' own scorers are installed on this worker: entry points in the group `adapterctl.scorers`; none is
imported.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from pydantic import ValidationError

from sdk.schemas.evaluation import WORDNET, Better
from sdk.schemas.work import DIRECTIONS_GROUP, MOST_DIRECTIONS, MOST_SCORERS, SCORERS_GROUP, ScorerInfo

_DIRECTIONS: dict[str, Better] = {"less": "less", "more": "more"}


class NoScorerError(ValueError):
    """A scorer is missing, or installed more than once; the message is a whole sentence."""


def installed_scorers(names: Iterable[str]) -> list[EntryPoint]:
    """Return the entry points with these names. Raises NoScorerError."""
    asked = list(names)
    if not asked:
        return []
    found = _by_name()
    for name in asked:
        if name not in found:
            known = ", ".join(sorted(found)) or "none"
            raise NoScorerError(
                f"This worker has no scorer {name!r} (it has {known}); install the distribution that brings it on each"
                " worker, or leave it out."
            )
        if len(found[name]) > 1:
            by = ", ".join(sorted(map(made_by, found[name])))
            raise NoScorerError(f"This worker has the scorer {name!r} more than once, of {by}; uninstall all but one.")
    return [found[name][0] for name in asked]


def require_any(names: Iterable[str]) -> None:
    """Raise NoScorerError if names are requested and none of them is installed; if only some are missing, the others
    are used.
    """
    asked = list(names)
    faults = []
    for name in asked:
        try:
            installed_scorers([name])
        except NoScorerError as error:
            faults.append(error)
    if asked and len(faults) == len(asked):
        raise faults[0]


@cache
def announced_scorers() -> list[ScorerInfo] | None:
    """Return the scorers that a worker offers to jobs, as installed when its process began: names offered by only one
    distribution.

    None if there are more than can be reported: a worker that reports only some would never get jobs for the others.
    """
    found, directions = [], _directions()
    for name, (entry, *more) in sorted(_by_name().items()):
        if more or entry.dist is None or name == WORDNET:
            continue
        try:
            better = directions.get((entry.dist.name, name), {})
            found.append(ScorerInfo(name=name, distribution=entry.dist.name, version=entry.dist.version, better=better))
        except ValidationError:
            # Its name is not allowed in jobs.
            continue
    return found if len(found) <= MOST_SCORERS else None


def _by_name() -> dict[str, list[EntryPoint]]:
    found: dict[str, list[EntryPoint]] = {}
    for entry in entry_points(group=SCORERS_GROUP):
        found.setdefault(entry.name, []).append(entry)
    return found


def _directions() -> dict[tuple[str, str], dict[str, Better]]:
    """Return what distributions declare of their scorers: distribution and scorer → `NAME` or `NAME.KEY` → direction."""
    said: dict[tuple[str, str], dict[str, Better]] = {}
    # What stands there is no module, and nothing is imported: an entry point is only where a distribution can say it.
    for entry in sorted(entry_points(group=DIRECTIONS_GROUP), key=lambda one: one.name):
        direction = _DIRECTIONS.get(entry.value)
        if entry.dist is None or direction is None:
            continue
        scores = said.setdefault((entry.dist.name, entry.name.partition(".")[0]), {})
        if len(scores) < MOST_DIRECTIONS:
            scores[entry.name] = direction
    return said


def made_by(entry: EntryPoint) -> str:
    """Return which distribution offers an entry point, and its version."""
    return "?" if entry.dist is None else f"{entry.dist.name} {entry.dist.version}"
