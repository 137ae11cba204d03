"""Adapters and their versions: finding them, and what is known of each."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query, Response

from registry.artifacts.long_facts import WAIT_S, TurnNeededError, holding_facts
from registry.catalog.parameters import Adapter
from registry.catalog.versions.claims import ClaimedVersions
from registry.catalog.versions.resolve import Resolver
from registry.catalog.versions.service import Catalog
from registry.http.routes import PageOf, Reader, answered, apart, room, service, written
from registry.principal import Principal
from sdk.schemas.catalog import AdapterView, VersionView
from sdk.schemas.claims import ClaimsView
from sdk.schemas.probe import VersionNorms
from sdk.schemas.wire import Page

router = room("", "catalog")

CatalogDep = Annotated[Catalog, service(Catalog)]


@router.get("/resolve", response_model=VersionView)
async def resolve_ref(
    ref: Annotated[str, Query(max_length=1000, examples=["team/code-review@production"])],
    resolver: Annotated[Resolver, service(Resolver)],
    who: Reader,
) -> Response:
    """The version that a ref names now, with its lineage and manifest; or what a member of a sweep, `sweep:ID/N`, has
    kept.
    """
    return Response(await resolver.resolve(ref, who=who), media_type="application/json")


@router.get("/adapters")
def list_adapters(
    catalog: CatalogDep,
    who: Reader,
    page: PageOf,
    namespace: Annotated[str | None, Query(max_length=64, description='"-" for names without one.')] = None,
    prefix: Annotated[str, Query(max_length=129)] = "",
) -> Page[AdapterView]:
    """Adapters with a ready version, by name."""
    return catalog.adapters(namespace=namespace, prefix=prefix, who=who, **page)


@router.get("/versions")
def list_versions(
    adapter: Adapter,
    catalog: CatalogDep,
    who: Reader,
    page: PageOf,
    archived: Annotated[bool, Query(description="With archived ones.")] = False,
) -> Page[VersionView]:
    """The ready versions of an adapter, newest first."""
    return catalog.versions(adapter=adapter, archived=archived, who=who, **page)


@router.get("/version/norms", response_model=VersionNorms)
async def get_norms(
    ref: Annotated[str, Query(max_length=1000, examples=["team/code-review@production"])],
    catalog: CatalogDep,
    who: Reader,
) -> Response:
    """What a version adds to its base: the norm of ΔW of each module, derived from its bytes."""
    try:
        return await answered(_written_norms, catalog, ref, who, wait_s=0)
    except TurnNeededError:
        # It may wait for as long as a push reads a file, so it waits among pushes.
        return await apart(_written_norms, catalog=catalog, ref=ref, who=who, wait_s=WAIT_S)


def _written_norms(catalog: Catalog, ref: str, who: Principal, wait_s: float) -> Response:
    with holding_facts(wait_s=wait_s):
        return written(catalog.norms(ref, who=who), 200)


@router.get("/version/claims")
def get_claims(
    ref: Annotated[str, Query(max_length=1000, examples=["team/code-review@production"])],
    claimed: Annotated[ClaimedVersions, service(ClaimedVersions)],
    who: Reader,
) -> ClaimsView:
    """What the folder that a version was pushed from has told of it: nothing here has checked it, and nothing is decided by it."""
    return claimed.get(ref, who=who)
