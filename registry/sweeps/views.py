"""Sweeps, for clients."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path

from registry.access.keys import IdempotencyKey
from registry.db.paging import Cursor, Limit
from registry.http.routes import Reader, WorkerToken, Writer, apart, room, service
from registry.sweeps.rungs import Rungs
from registry.sweeps.service import Sweeps
from sdk.schemas.sweeps import RungAnswer, RungReached, SweepState, SweepSubmission, SweepView
from sdk.schemas.wire import Page

router = room("", "sweeps")

SweepsDep = Annotated[Sweeps, service(Sweeps)]
RungsDep = Annotated[Rungs, service(Rungs)]
SweepId = Annotated[str, Path(max_length=64)]


@router.post("/sweeps", status_code=201)
async def submit_sweep(body: SweepSubmission, sweeps: SweepsDep, who: Writer, key: IdempotencyKey) -> SweepView:
    """Begin a sweep; the same `Idempotency-Key` with the same body gives the same sweep."""
    return await apart(sweeps.submit, lane="planning", submission=body, who=who, idempotency_key=key)


@router.get("/sweeps")
def list_sweeps(
    sweeps: SweepsDep, who: Reader, state: SweepState | None = None, cursor: Cursor = None, limit: Limit = 50
) -> Page[SweepView]:
    """The sweeps that the caller may see, newest first, without their members."""
    wanted = None if state is None else state.value
    return sweeps.list(state=wanted, cursor=cursor, limit=limit, who=who)


@router.get("/sweeps/{sweep_id}")
def get_sweep(sweep_id: SweepId, sweeps: SweepsDep, who: Reader) -> SweepView:
    """One sweep, with its members and its verdict."""
    return sweeps.get(sweep_id, who=who)


@router.post("/sweeps/{sweep_id}/pause")
def pause_sweep(sweep_id: SweepId, sweeps: SweepsDep, who: Writer) -> SweepView:
    """Begin no further members; those that run go on."""
    return sweeps.pause(sweep_id, who=who)


@router.post("/sweeps/{sweep_id}/go")
async def resume_sweep(sweep_id: SweepId, sweeps: SweepsDep, who: Writer) -> SweepView:
    """Let a paused sweep go on; from now on its members are submitted for the caller."""
    return await apart(sweeps.go, lane="planning", sweep_id=sweep_id, who=who)


@router.post("/sweeps/{sweep_id}/cancel")
def cancel_sweep(sweep_id: SweepId, sweeps: SweepsDep, who: Writer) -> SweepView:
    """Cancel a sweep and its members; a cancelled one stays as it is."""
    return sweeps.cancel(sweep_id, who=who)


@router.post("/jobs/{job_id}/rungs")
def reach_rung(
    job_id: Annotated[str, Path(max_length=64)], body: RungReached, rungs: RungsDep, who: WorkerToken
) -> RungAnswer:
    """Say whether a member of a sweep goes on at one of the steps at which it may be ended."""
    return rungs.reach(job_id, reached=body, who=who)
