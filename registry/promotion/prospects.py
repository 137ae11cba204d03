"""What a move of an alias would be about, before it is asked for: what somebody has to see to say yes to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from registry.catalog.aliases.moving import named_now, require_movable, undone_to
from registry.catalog.versions.finding import find_adapter, find_version
from registry.db.database import Database
from registry.errors import NotFound
from registry.principal import Principal
from registry.promotion.policies.finding import policies_digest, standing
from registry.promotion.question import StandingPolicy
from sdk.formats.refs import Ref


@dataclass(frozen=True)
class Prospect:
    """A move that somebody may ask for."""

    adapter: str
    alias: str
    #: What the alias would name.
    number: int
    digest: str
    #: What it names now; 0: nothing.
    from_number: int
    policies: Sequence[StandingPolicy]
    #: As `policies_digest` has it.
    policies_digest: str


class Prospects:
    """The service that says what a move would be about. It decides nothing, and writes nothing."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def of(self, *, adapter: str, alias: str, number: int | None, who: Principal) -> Prospect:
        """What it would be to let an alias name the version with a number; None: what it named before its last move.

        Raises InvalidName, NotFound, Forbidden for an alias that the caller may not move, Conflict if there is nothing to go
        back to.
        """
        with self._db.read() as session:
            row = find_adapter(session, adapter, who, action="write")
            require_movable(session, row, alias, who)
            if number is None:
                target = undone_to(session, row, alias)
            else:
                target = find_version(session, Ref(row.name, f"v{number}"), who)
            if target.number is None:
                raise NotFound(
                    f"there is no {row.name}@v{number}; see what there is with: adapterctl versions {row.name}"
                )
            present = named_now(session, row, alias)
            policies = standing(session, row.name, row.namespace, alias)
            return Prospect(
                adapter=row.name,
                alias=alias,
                number=target.number,
                digest=target.digest,
                from_number=0 if present is None or present.number is None else present.number,
                policies=policies,
                policies_digest=policies_digest(policies),
            )
