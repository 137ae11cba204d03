"""Engine programs that wait for the next question, as parts beside those of a stack."""

from __future__ import annotations

import time

from sdk.asking.residents import Resident, end_residents, resident_log, residents
from sdk.pulling.cache import Cache
from sdk.stack.control import Part
from sdk.stack.keeper import PartState


def engine_parts(cache: Cache) -> list[Part]:
    """Return the engine programs of a cache as they are now."""
    return [_part(cache, resident) for resident in residents(cache)]


def end_engines(cache: Cache) -> list[str]:
    """End the engine programs of a cache; return what they are called."""
    return [_name(resident) for resident in end_residents(cache)]


def _name(resident: Resident) -> str:
    dtype = "" if resident.base.dtype is None else f" {resident.base.dtype}"
    return f"engine {resident.base.id}{dtype}"


def _part(cache: Cache, resident: Resident) -> Part:
    health = resident.health()
    state = PartState.STARTING
    message = "it loads its base"
    if health is not None:
        state = PartState.READY
        loaded = len(health.get("adapters", ()))
        message = f"it holds {loaded} {'version' if loaded == 1 else 'versions'}, and ends {resident.idle_s:.0f} s after the last question"
    return Part(
        part=_name(resident),
        state=state,
        pid=resident.pid,
        port=None,
        uptime_s=max(0, round(time.time() - resident.since_s)),
        restarts=0,
        failures=0,
        message=message,
        log=str(resident_log(cache, resident)),
    )
