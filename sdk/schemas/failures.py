"""Why a job failed, and whether another attempt may help.

>>> retry_policy("oom").pause_s(1, max_attempts=3), retry_policy("oom").pause_s(2, max_attempts=3)
(0.0, None)
>>> [retry_policy("unavailable").pause_s(tries, max_attempts=3) for tries in (1, 2, 3, 4, 5)]
[5.0, 10.0, 20.0, 40.0, None]

A worker of a newer release may give a reason that this release does not know. It is stored and shown as given, and
the job is not tried again.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class FailureReason(StrEnum):
    """Why an attempt at a job ended without a result."""

    #: The adapter's files don't fit the base, or change nothing.
    ADAPTER = "adapter"
    #: The base's folder is incomplete, can't be reached, or has an architecture that can't be loaded.
    BASE = "base"
    #: Somebody cancelled the job.
    CANCELLED = "cancelled"
    #: The checkpoint to resume from is broken, or was written by a different training.
    CHECKPOINT = "checkpoint"
    #: The process ended without saying why.
    CRASHED = "crashed"
    #: The rows can't be read, or have nothing to compute a loss on.
    DATA = "data"
    #: The worker's disk is full.
    DISK_FULL = "disk_full"
    #: The loss or a gradient is no longer a finite number.
    DIVERGED = "diverged"
    #: The registry no longer has what the job was submitted with.
    GONE = "gone"
    #: A fault of the program; the worker's log has the details.
    INTERNAL = "internal"
    #: The registry or a hub does not have something that the worker asked for.
    MISSING = "missing"
    #: Device or main memory ran out.
    OOM = "oom"
    #: The namespace's quota has no room for the result.
    QUOTA = "quota"
    #: The request contradicts itself or what it refers to.
    SPEC = "spec"
    #: The target modules name nothing that the base has.
    TARGETS = "targets"
    #: The attempt ran longer than it may.
    TIMEOUT = "timeout"
    #: The registry, its storage or a hub did not answer for too long.
    UNAVAILABLE = "unavailable"
    #: The registry can't read what is stored of the job.
    UNREADABLE = "unreadable"
    #: The worker's release does not understand the job; another worker may.
    UNSUPPORTED = "unsupported"
    #: A check that every training runs on itself failed: nothing was, or could be, learnt.
    UNTRAINED = "untrained"
    #: Bytes are not what they should be, or the result is not what was asked for.
    VERIFICATION = "verification"
    #: The worker fell silent, and its lease ran out.
    WORKER_LOST = "worker_lost"


@dataclass(frozen=True)
class RetryPolicy:
    """How often a job is tried if its attempts end for the same reason."""

    #: How many attempts may end for this reason; None: as many as the registry is set to allow
    #: (`REGISTRY_MAX_ATTEMPTS`).
    attempts: int | None
    #: The pause before the second attempt, in seconds; each later pause is twice as long as the one before.
    first_pause_s: float = 0.0

    def pause_s(self, tries: int, *, max_attempts: int) -> float | None:
        """Return how many seconds to wait after the attempt number `tries` that ended like this; None: the job has
        failed.
        """
        most = max_attempts if self.attempts is None else self.attempts
        if tries >= most:
            return None
        # Powers of 2 overflow floating-point numbers eventually; no job waits that long.
        return self.first_pause_s * 2.0 ** min(tries - 1, _MOST_DOUBLINGS)


_MOST_DOUBLINGS = 20
_FINAL = RetryPolicy(attempts=1)

RETRY_POLICIES: dict[FailureReason, RetryPolicy] = {
    FailureReason.ADAPTER: _FINAL,
    FailureReason.BASE: _FINAL,
    FailureReason.CANCELLED: _FINAL,
    # The worker itself starts a training over if its checkpoint is unusable.
    FailureReason.CHECKPOINT: _FINAL,
    FailureReason.CRASHED: RetryPolicy(attempts=2),
    FailureReason.DATA: _FINAL,
    FailureReason.DISK_FULL: _FINAL,
    FailureReason.DIVERGED: _FINAL,
    FailureReason.GONE: _FINAL,
    FailureReason.INTERNAL: _FINAL,
    FailureReason.MISSING: _FINAL,
    # Another worker may have more memory to spare.
    FailureReason.OOM: RetryPolicy(attempts=2),
    FailureReason.QUOTA: _FINAL,
    FailureReason.SPEC: _FINAL,
    FailureReason.TARGETS: _FINAL,
    # It would take as long again; `jobs retry` resumes from the last checkpoint.
    FailureReason.TIMEOUT: _FINAL,
    FailureReason.UNAVAILABLE: RetryPolicy(attempts=5, first_pause_s=5.0),
    FailureReason.UNREADABLE: _FINAL,
    # While workers are being upgraded, another one may understand it.
    FailureReason.UNSUPPORTED: RetryPolicy(attempts=8, first_pause_s=5.0),
    FailureReason.UNTRAINED: _FINAL,
    FailureReason.VERIFICATION: _FINAL,
    FailureReason.WORKER_LOST: RetryPolicy(attempts=None),
}

_BY_TEXT: dict[str, RetryPolicy] = {str(reason): policy for reason, policy in RETRY_POLICIES.items()}


def retry_policy(reason: str) -> RetryPolicy:
    """Return how often a job is tried after failing for a reason. A reason that this release does not know is final."""
    return _BY_TEXT.get(reason, _FINAL)


def is_known(reason: str) -> bool:
    """Whether this release knows a reason."""
    return reason in _BY_TEXT
