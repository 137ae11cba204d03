"""Which failures are tried again, how often, and after how long.

>>> verdict("oom", 1, max_attempts=3), verdict("oom", 2, max_attempts=3), verdict("data", 1, max_attempts=3)
(0.0, None, None)
>>> [verdict("unavailable", tries, max_attempts=3) for tries in (1, 2, 3, 4, 5)]
[5.0, 10.0, 20.0, 40.0, None]
"""

from __future__ import annotations

#: The reason of an attempt whose worker does not understand what is asked for: another one may.
UNSUPPORTED = "unsupported"

#: Attempts in all that may end for a reason. What is not here will not go better on another try.
_TRIES = {"oom": 2, "crashed": 2, "unavailable": 5, UNSUPPORTED: 8}
#: The first pause, in seconds, before a job is tried again that failed for want of something outside; then twice as long.
_FIRST_PAUSE_S = 5.0

#: The reason of an attempt whose worker fell silent; `REGISTRY_MAX_ATTEMPTS` says how often.
WORKER_LOST = "worker_lost"

#: Reasons that are counted by their name: those that a registry and workers of this release give.
_KNOWN = {"adapter", "base", "cancelled", "checkpoint", "crashed", "data", "disk_full", "diverged", "gone", "internal"}
_KNOWN |= {"missing", "oom", "spec", "targets", "quota", "timeout", "unavailable", "unreadable", "untrained"}
_KNOWN |= {UNSUPPORTED, "verification", WORKER_LOST}


def verdict(reason: str, tries: int, *, max_attempts: int) -> float | None:
    """Say after how many seconds a job is queued again whose `tries`-th attempt ended for `reason`; None: it has failed."""
    cap = max_attempts if reason == WORKER_LOST else _TRIES.get(reason, 1)
    if tries >= cap:
        return None
    return _FIRST_PAUSE_S * 2 ** (tries - 1) if reason in ("unavailable", UNSUPPORTED) else 0.0


def counted_as(reason: str | None) -> str:
    """Under which reason an end is counted: a worker may say any, and each that is counted stays for ever."""
    return "" if reason is None else reason if reason in _KNOWN else "other"
