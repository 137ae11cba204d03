"""`GET /api/v1/resolve`."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query, Response

from registry.catalog.versions.resolve import Resolver
from registry.http.routes import Reader, room, service
from sdk.schemas.catalog import VersionView

ResolverDep = Annotated[Resolver, service(Resolver)]

router = room("", "catalog")


@router.get("/resolve", response_model=VersionView)
async def resolve_ref(
    ref: Annotated[str, Query(max_length=1000, examples=["team/code-review@production"])],
    resolver: ResolverDep,
    who: Reader,
) -> Response:
    """The version that a ref names now, with its lineage and manifest."""
    return Response(await resolver.resolve(ref, who=who), media_type="application/json")
