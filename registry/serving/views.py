"""What gateways ask: tables, whether one has changed, and what the holders of tokens may do."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Annotated

from fastapi import Header, Query, Request, Response
from pydantic import Field

from registry.db.database import Database
from registry.http.routes import Gateway, Reader, answered, room, service
from registry.jobs.event_feed import Watchers
from registry.serving.changes import feed_of, wait_until
from registry.serving.standing import Standings
from registry.serving.tables import LANE, MOST_ASKED, Tables
from sdk.schemas.serving import ServingChange, ServingTable, StandingRequest, TokenStanding

router = room("/serving", "serving")

#: How long a wait may be, in seconds: less than what proxies allow.
LONGEST_WAIT_S = 25.0

DatabaseDep = Annotated[Database, service(Database)]
StandingsDep = Annotated[Standings, service(Standings)]
TablesDep = Annotated[Tables, service(Tables)]
WatchersDep = Annotated[Watchers, service(Watchers)]

Namespace = Annotated[
    str, Query(max_length=64, description='A namespace, or "-" for names without one.', examples=["team"])
]

Asked = Annotated[
    list[Annotated[str, Field(max_length=129)]],
    Query(
        alias="adapter",
        max_length=MOST_ASKED,
        description="Only this adapter, by its whole name; repeatable. None: all of them.",
        examples=[["team/code-review"]],
    ),
]

_ETAG = {"ETag": {"description": "The table's edition, in quotes.", "schema": {"type": "string"}}}
#: It may be kept, by who asked for it, but must be asked for again.
_CACHING = "private, no-cache"


@router.get(
    "/table",
    response_model=ServingTable,
    responses={
        200: {"headers": _ETAG},
        304: {"description": "The table still has the edition that `If-None-Match` names.", "headers": _ETAG},
    },
)
async def get_serving_table(
    tables: TablesDep,
    who: Reader,
    namespace: Namespace,
    adapters: Asked = [],  # noqa: B006 - nobody changes it
    if_none_match: Annotated[str | None, Header(description="The ETag of the table that is known.")] = None,
) -> Response:
    """Which version each name of a namespace, or of some of its adapters, means now, and every version that may be served."""
    edition = await answered(tables.edition, namespace, adapters, who=who)
    if _names(if_none_match, edition):
        return Response(status_code=304, headers=_headers(edition))
    body = tables.kept(namespace, edition, adapters)
    if body is None:
        edition, body = await LANE.run(tables.make, namespace, edition, adapters)
    return Response(body, media_type="application/json", headers=_headers(edition))


@router.get("/changes")
async def wait_for_change(
    request: Request,
    db: DatabaseDep,
    tables: TablesDep,
    watchers: WatchersDep,
    who: Reader,
    namespace: Namespace,
    after: Annotated[
        str, Query(max_length=64, description="The edition of the table that is known.", examples=["0" * 32])
    ] = "",
    wait_s: Annotated[float, Query(ge=0, le=LONGEST_WAIT_S)] = LONGEST_WAIT_S,
    adapters: Asked = [],  # noqa: B006 - nobody changes it
) -> ServingChange:
    """Whether the table of a namespace, or of some of its adapters, may have another edition by now; waits up to `wait_s` for that."""
    # A caller that doesn't wait is not counted.
    with watchers.entered(who) if wait_s else nullcontext():
        # Looked at once the feed watches, so that no change comes in between.
        async with feed_of(db).watching(namespace) as changed:
            if await answered(tables.edition, namespace, adapters, who=who) != after:
                return ServingChange(look=True)
            return ServingChange(look=await wait_until(changed, request.is_disconnected, wait_s=wait_s))


@router.post("/tokens")
def get_standing(body: StandingRequest, standings: StandingsDep, who: Gateway) -> TokenStanding:
    """What the holder of a token may do, in the namespaces that the caller is a gateway of."""
    return standings.of(body.sha256, who=who)


def _headers(edition: str) -> dict[str, str]:
    return {"ETag": f'"{edition}"', "Cache-Control": _CACHING}


def _names(if_none_match: str | None, edition: str) -> bool:
    """Whether a header names an edition; a proxy that compresses calls the ETag weak."""
    named = (one.strip().removeprefix("W/") for one in (if_none_match or "").split(","))
    return f'"{edition}"' in named
