"""Sweeps as callers see them: beginning, looking at, pausing, cancelling."""

from __future__ import annotations

from collections.abc import Iterator

from sdk.api.transport import Transport, keyed, pages
from sdk.names import check_sweep_id
from sdk.schemas.sweeps import SweepSubmission, SweepView

#: Several settings are examined before a sweep is accepted.
_SUBMITTING_S = 300.0


def submit(transport: Transport, submission: SweepSubmission, *, key: str | None = None) -> SweepView:
    """Begin a sweep; the same idempotency key again gives the same sweep.

    Raises InvalidInput, NotFound, DoesNotFit, QuotaExceeded, Unavailable for a missing library.
    """
    headers = keyed(key)
    return transport.call("POST", "/sweeps", SweepView, body=submission, headers=headers, timeout_s=_SUBMITTING_S)


def listed(transport: Transport, *, state: str | None = None, limit: int = 50) -> Iterator[SweepView]:
    """Yield the last sweeps, newest first, without their members."""
    return pages(transport, "/sweeps", SweepView, params={"state": state}, limit=limit)


def get(transport: Transport, sweep_id: str) -> SweepView:
    """Return a sweep as it is now, with its members. Raises NotFound."""
    return transport.call("GET", f"/sweeps/{check_sweep_id(sweep_id)}", SweepView)


def pause(transport: Transport, sweep_id: str) -> SweepView:
    """Begin no further members. Raises NotFound, NotAllowed, Conflict for a sweep that has ended."""
    return transport.call("POST", f"/sweeps/{check_sweep_id(sweep_id)}/pause", SweepView)


def go(transport: Transport, sweep_id: str) -> SweepView:
    """Let a paused sweep go on. Raises NotFound, NotAllowed, Conflict for a sweep that has ended."""
    return transport.call("POST", f"/sweeps/{check_sweep_id(sweep_id)}/go", SweepView, timeout_s=_SUBMITTING_S)


def cancel(transport: Transport, sweep_id: str) -> SweepView:
    """Cancel a sweep and its members. Raises NotFound, NotAllowed, Conflict for a sweep that has ended."""
    return transport.call("POST", f"/sweeps/{check_sweep_id(sweep_id)}/cancel", SweepView)
