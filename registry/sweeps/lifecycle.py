"""The states of a sweep, and which it may move to. They are `sdk.schemas.sweeps.SweepState`.

Each step of a sweep locks its row, and is taken only if the sweep is still in the state that the step is for.
"""

from __future__ import annotations

from sqlalchemy.orm import Session

from registry.errors import Conflict, NotFound
from registry.principal import Principal
from registry.sweeps.models import Sweep
from sdk.schemas.sweeps import SweepState

MOVES: dict[SweepState, frozenset[SweepState]] = {
    SweepState.RUNNING: frozenset({SweepState.PAUSED, SweepState.CHOOSING, SweepState.CANCELLED}),
    SweepState.PAUSED: frozenset({SweepState.RUNNING, SweepState.CANCELLED}),
    # Paused if the one for whom the winner is published may no longer do that.
    SweepState.CHOOSING: frozenset({SweepState.ENDED, SweepState.PAUSED, SweepState.CANCELLED}),
    SweepState.ENDED: frozenset(),
    SweepState.CANCELLED: frozenset(),
}

#: States in which the registry takes steps.
MOVING = (SweepState.RUNNING, SweepState.CHOOSING)


def find_sweep(session: Session, sweep_id: str, who: Principal, *, action: str = "read", lock: bool = False) -> Sweep:
    """Return the row of a sweep. Raises NotFound, Forbidden if `action` is not allowed in its namespace."""
    missing = f"there is no sweep {sweep_id[:64]!a}; list them with: adapterctl sweep list"
    sweep = session.get(Sweep, sweep_id, with_for_update=lock or None, populate_existing=lock)
    if sweep is None:
        raise NotFound(missing, param="sweep")
    who.require(action, sweep.namespace, missing=missing, param="sweep")
    return sweep


def lock_in(session: Session, sweep_id: str, state: SweepState) -> Sweep | None:
    """Lock the row of a sweep and return it; None if it is no longer in this state."""
    sweep = session.get(Sweep, sweep_id, with_for_update=True, populate_existing=True)
    return sweep if sweep is not None and sweep.state == state else None


def move(sweep: Sweep, to: SweepState) -> None:
    """Move a sweep whose row the caller has locked. Raises Conflict for a move that is not in the table."""
    if to not in MOVES.get(SweepState(sweep.state), ()):
        raise Conflict(
            f"sweep {sweep.id} is {sweep.state} and can't become {to}; see it with: adapterctl sweep show {sweep.id}",
            param="sweep",
        )
    sweep.state = to
