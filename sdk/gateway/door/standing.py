"""What a gateway shows of itself: whether it can answer, what its names mean, and how old that is."""

from __future__ import annotations

from typing import Any, Protocol

from sdk.gateway.moves.moves import Moves
from sdk.gateway.tables.served_tables import TableAge


class Aged(Protocol):
    """Tables that have an age."""

    @property
    def age(self) -> TableAge:
        """How old they are."""
        ...


class GatewayStanding:
    """That of a gateway with these versions, by these tables."""

    def __init__(self, versions: Moves, tables: Aged) -> None:
        self._versions, self._tables = versions, tables

    @property
    def away_since(self) -> str | None:
        """Since when the registry is away, as a time of day; None: it isn't."""
        age = self._tables.age
        return None if age.away_since is None else age.texts[1]

    def document(self) -> dict[str, Any]:
        """Return what `GET /readyz` shows: no names, since anybody may ask."""
        age = self._tables.age
        looked_at, away_since, refused_since = age.texts
        names = self._versions.names()
        waits = [each for each in names if each.serving is None and each.wanted is not None]
        # What the engine says, with its address and its paths, is for those who see the gateway's own lines.
        reason = None if self._versions.trouble is None else "the engine isn't there; see the gateway's log"
        if reason is None and (not names or len(waits) == len(names)):
            reason = "no version is served yet"
            if age.refusal is not None:
                reason = "the registry refuses to say what names mean; see the gateway's log"
        return {
            "ready": reason is None,
            "reason": reason,
            "table_at": looked_at,
            "registry_away_since": away_since,
            # The sentence has names, and is in the gateway's log.
            "registry_refused_since": refused_since,
            "registry_refusal": age.refusal,
        }

    def models(self) -> list[tuple[str, dict[str, Any]]]:
        """Return each name with what it means, and each version with its state, as `GET /v1/models` shows them."""
        found: dict[str, dict[str, Any]] = {
            each.name: {"version": each.serving, "wanted": each.wanted, "reason": each.reason}
            for each in self._versions.names()
        }
        for version in self._versions.state():
            found[version.name] = {
                "version": version.name,
                "digest": version.digest,
                "state": version.state.value,
                "probe": None if version.proof is None else version.proof.value,
                "reason": version.reason,
                "running": version.running,
            }
        return sorted(found.items())
