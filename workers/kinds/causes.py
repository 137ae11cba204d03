"""Why an attempt ended without a result, as a reason that programs read and a sentence that people read.

>>> str(of_status(-11, None).reason)
'crashed'
"""

from __future__ import annotations

import signal
from pathlib import Path

from sdk.errors import (
    FULL_DISK,
    AdapterctlError,
    Conflict,
    InvalidBase,
    InvalidInput,
    NotFound,
    QuotaExceeded,
    Unavailable,
    Unreadable,
    VerificationFailed,
)
from sdk.schemas.failures import FailureReason
from workers.child.protocol import DISK_FULL_STATUS, FAULT_FILE, INTERRUPTED_STATUS, Fault
from workers.main_memory import control_groups

_KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)
_LESS_MEMORY = "lower batch_size or max_length, then submit the job again"


class AttemptFailed(Exception):  # noqa: N818 - it reads as what happened
    """This attempt ends without a result."""

    def __init__(self, reason: FailureReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class KilledForMemory(AttemptFailed):
    """The system killed the process because memory ran out, so it could neither report it nor continue with less."""


def of_error(error: AdapterctlError | OSError) -> AttemptFailed:
    """What an error means if it was raised while inputs were fetched or a result was handed in."""
    if is_full_disk(error):
        return AttemptFailed(
            FailureReason.DISK_FULL,
            "the worker's disk is full; free some space there (adapterctl cache prune), then submit again",
        )
    # A TimedOut is both, and says more than the system would.
    if not isinstance(error, AdapterctlError):
        return AttemptFailed(
            FailureReason.INTERNAL, f"{type(error).__name__}: {error.strerror}; the worker's log has the details"
        )
    reasons: list[tuple[type[AdapterctlError], FailureReason]] = [
        (InvalidBase, FailureReason.BASE),
        (VerificationFailed, FailureReason.VERIFICATION),
        (Unavailable, FailureReason.UNAVAILABLE),
        (NotFound, FailureReason.MISSING),
        (QuotaExceeded, FailureReason.QUOTA),
        (InvalidInput, FailureReason.SPEC),
        (Unreadable, FailureReason.UNREADABLE),
        # The name was taken meanwhile by versions of another kind.
        (Conflict, FailureReason.SPEC),
    ]
    reason = next((reason for kind, reason in reasons if isinstance(error, kind)), FailureReason.INTERNAL)
    return AttemptFailed(reason, error.message)


def is_full_disk(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, is this machine's full disk."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL_DISK:
            return True
        error = error.__cause__
    return False


def of_child(folder: Path, status: int, kills_before: int | None) -> AttemptFailed:
    """What a child's end means, by its own report or by its exit status."""
    try:
        fault = Fault.model_validate_json((folder / FAULT_FILE).read_bytes())
    except (OSError, ValueError):
        # It had no time to report.
        return of_status(status, kills_before)
    return AttemptFailed(fault.reason, fault.message)


def of_status(status: int, kills_before: int | None) -> AttemptFailed:
    """What an exit status means if the worker did not cause it; `kills_before` is what `oom_kills` said before."""
    if status == DISK_FULL_STATUS:
        return AttemptFailed(
            FailureReason.DISK_FULL, "the worker's disk is full; free some space there, then submit the job again"
        )
    if status in _KILLED:
        kills = oom_kills()
        if kills is not None and kills_before is not None and kills > kills_before:
            return KilledForMemory(
                FailureReason.OOM, f"the kernel's OOM killer ended the process: memory ran out; {_LESS_MEMORY}"
            )
        said = f"the system killed the process, most likely for lack of memory; {_LESS_MEMORY}"
        # If the kernel counts kills and has not counted this one, any process may have sent the signal.
        kind = KilledForMemory if kills is None or kills_before is None else AttemptFailed
        return kind(FailureReason.OOM, said)
    if status == -signal.SIGXCPU:
        return AttemptFailed(
            FailureReason.DATA,
            "the process ran in one call for too long while it rendered rows; use another chat template, with --chat-template",
        )
    if status == INTERRUPTED_STATUS or status == -signal.SIGTERM:
        said = "was stopped by something other than its worker"
    elif status < 0:
        said = f"was ended by {_name(-status)}"
    else:
        said = f"ended with status {status}"
    return AttemptFailed(FailureReason.CRASHED, f"the process {said}; the job's log has its last output")


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def oom_kills() -> int | None:
    """How many processes the kernel has killed for lack of memory: in this control group, else on this machine."""
    places = [own / name for own in control_groups()[:1] for name in ("memory.events", "memory.oom_control")]
    for place in (*places, Path("/proc/vmstat")):
        try:
            lines = [line.split() for line in place.read_text().splitlines()]
        except OSError:
            continue
        counts = [int(line[1]) for line in lines if len(line) == 2 and line[0] == "oom_kill"]
        if counts:
            return counts[0]
    return None
