"""Replays of versions' probes."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

from registry.http.routes import PageOf, Reader, Sender, room, service
from registry.promotion.probes import ProbeReplays
from sdk.schemas.probe_records import ProbeRecord, ProbeRecordView
from sdk.schemas.wire import Page

router = room("/probes", "promotion")

ProbeReplaysDep = Annotated[ProbeReplays, service(ProbeReplays)]


@router.post("", status_code=201)
def record_probe(body: ProbeRecord, probes: ProbeReplaysDep, who: Sender) -> ProbeRecordView:
    """Record what a replay of a version's probe found; a second one by the same token takes the place of the first."""
    return probes.record(replay=body, who=who)


@router.get("")
def list_probes(
    probes: ProbeReplaysDep,
    who: Reader,
    page: PageOf,
    adapter: Annotated[str, Query(max_length=129, examples=["team/code-review"])],
    number: Annotated[int | None, Query(ge=1, le=10**9, description="Only those of this version.")] = None,
) -> Page[ProbeRecordView]:
    """The replays of the probes of an adapter's versions, newest first."""
    return probes.list(adapter=adapter, number=number, who=who, **page)
