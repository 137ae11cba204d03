"""What versions answer when they are served."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

from registry.catalog.versions.served_probes import ServedProbes
from registry.http.routes import Reader, Sender, room, service
from sdk.schemas.serving import ServedProbeRecord, ServedProbeView

router = room("", "catalog")

ServedProbesDep = Annotated[ServedProbes, service(ServedProbes)]


@router.get("/version/served-probe")
def get_served_probe(
    ref: Annotated[str, Query(max_length=1000, examples=["team/code-review@production"])],
    probes: ServedProbesDep,
    who: Reader,
) -> ServedProbeView:
    """What a version answers to fixed prompts, and who measured it: an engine that serves it answers the same."""
    return probes.get(ref, who=who)


@router.put("/version/served-probe")
def record_served_probe(body: ServedProbeRecord, probes: ServedProbesDep, who: Sender) -> ServedProbeView:
    """Record what a version answers, as the caller measured it; a second one by the same token takes the place of the first."""
    return probes.record(measured=body, who=who)
