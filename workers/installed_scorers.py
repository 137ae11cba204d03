"""Which scorers of a user's own are installed on this worker: entry points of the group `adapterctl.scorers`, none of them imported."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points

GROUP = "adapterctl.scorers"


class NoScorerError(ValueError):
    """A scorer that is not there, or is there more than once; the message is a whole sentence."""


def installed_scorers(names: Iterable[str]) -> list[EntryPoint]:
    """Return the entry points with these names. Raises NoScorerError."""
    asked = list(names)
    if not asked:
        return []
    found: dict[str, list[EntryPoint]] = {}
    for entry in entry_points(group=GROUP):
        found.setdefault(entry.name, []).append(entry)
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


def made_by(entry: EntryPoint) -> str:
    """Return which distribution offers an entry point, and its version."""
    return "?" if entry.dist is None else f"{entry.dist.name} {entry.dist.version}"
