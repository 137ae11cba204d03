"""The states of a version, and the one table of legal moves."""

from __future__ import annotations

from enum import StrEnum


class VersionState(StrEnum):
    """The state of a version."""

    #: Its bytes are being verified; it has no number, and nobody can see it.
    PENDING = "pending"
    #: Verified and numbered.
    READY = "ready"
    #: Refused by admission but kept for an admin; reachable by digest only.
    QUARANTINED = "quarantined"
    #: Refused; nothing about it is visible.
    FAILED = "failed"
    #: Pullable by its exact number or digest, hidden from lists and `latest`.
    ARCHIVED = "archived"
    #: Its number stays taken; its files may be removed.
    DELETED = "deleted"


MOVES: dict[VersionState, frozenset[VersionState]] = {
    VersionState.PENDING: frozenset({VersionState.READY, VersionState.QUARANTINED, VersionState.FAILED}),
    VersionState.READY: frozenset({VersionState.ARCHIVED, VersionState.DELETED}),
    VersionState.ARCHIVED: frozenset({VersionState.READY, VersionState.DELETED}),
    VersionState.QUARANTINED: frozenset({VersionState.READY, VersionState.DELETED}),
    VersionState.FAILED: frozenset(),
    VersionState.DELETED: frozenset(),
}

#: States in which an adapter may have a manifest only once.
LIVE = (VersionState.PENDING, VersionState.READY, VersionState.QUARANTINED, VersionState.ARCHIVED)

#: States in which a number or an alias finds a version and its files can be fetched.
PULLABLE = (VersionState.READY, VersionState.ARCHIVED)


def sources_of(target: VersionState) -> list[VersionState]:
    """The states from which a version may move to `target`."""
    return [state for state, targets in MOVES.items() if target in targets]
