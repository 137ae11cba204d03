"""`GET /api/v1/resolve`."""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine
from typing import Annotated, Any
from urllib.parse import unquote

from fastapi import Query, Request, Response

from registry.catalog.versions.resolve import Resolver
from registry.http.routes import Reader, StrictRoute, room, service, service_of
from sdk.schemas.catalog import VersionView

ResolverDep = Annotated[Resolver, service(Resolver)]

#: A single `ref` that is certainly short enough, and nothing else.
_PLAIN_QUERY = re.compile(rb"ref=([A-Za-z0-9._@%/-]{1,300})")


class _ShortCut(StrictRoute):
    """Calls the view itself if there is nothing to validate: FastAPI's validation takes longer than the answer."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's documented way for a route to read requests differently."""
        validating = super().get_route_handler()

        async def handle(request: Request) -> Response:
            plain = _PLAIN_QUERY.fullmatch(request.scope["query_string"])
            if plain is None:
                return await validating(request)
            ref = unquote(plain[1].decode("ascii"))
            return await resolve_ref(ref, service_of(request, Resolver), request.scope["principal"])

        return handle


router = room("", "catalog", route_class=_ShortCut)


@router.get("/resolve", response_model=VersionView)
async def resolve_ref(
    ref: Annotated[str, Query(max_length=1000, examples=["team/code-review@production"])],
    resolver: ResolverDep,
    who: Reader,
) -> Response:
    """The version that a ref names now, with its lineage and manifest."""
    return Response(await resolver.resolve(ref, who=who), media_type="application/json")
