"""Lineage."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

from registry.catalog.bases.parameters import WhoseBase
from registry.http.routes import Reader, room, service
from registry.lineage.about import VersionAbouts
from registry.lineage.service import Lineages
from sdk.schemas.claims import About
from sdk.schemas.lineage import Direction, Lineage

router = room("", "lineage")

LineagesDep = Annotated[Lineages, service(Lineages)]


@router.get("/lineage")
def trace_lineage(
    of: Annotated[
        str,
        Query(
            max_length=1000,
            description="A ref, `base:` and an id or fingerprint, or `data:` and a name or digest.",
            examples=["team/code-review@v3"],
        ),
    ],
    lineages: LineagesDep,
    who: Reader,
    whose: WhoseBase,
    direction: Direction = "both",
    depth: Annotated[int, Query(ge=1, le=32, description="Steps from the root.")] = 8,
) -> Lineage:
    """What a version was made from and what was made from it; what was made from a base or a dataset."""
    return lineages.trace(of=of, whose=whose, direction=direction, depth=depth, who=who)


@router.get("/version/about")
def tell_version(
    ref: Annotated[str, Query(max_length=1000, examples=["team/code-review@v3"])],
    abouts: Annotated[VersionAbouts, service(VersionAbouts)],
    who: Reader,
) -> About:
    """What is recorded of a version, as a pull writes it beside the files, to be claimed where they are pushed."""
    return abouts.about(ref, who=who)
