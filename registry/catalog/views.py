"""Bases, adapters, versions and aliases."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from registry.http import ERRORS, Given, Reader, Writer
from sdk.schemas.catalog import (
    AdapterView,
    AliasMove,
    AliasView,
    BaseRegistration,
    BaseView,
    Publication,
    Published,
    VersionView,
)

router = APIRouter(prefix="/api/v1", tags=["catalog"], responses=ERRORS)


@router.post("/bases", status_code=201)
def register_base(body: BaseRegistration, services: Given, who: Writer) -> BaseView:
    """Record a base by its fingerprint."""
    return services.bases.register(base=body, by=who.name)


@router.get("/bases")
def list_bases(services: Given, who: Reader) -> list[BaseView]:
    """All bases, the newest first."""
    return services.bases.list()


@router.get("/base")
def get_base(name: Annotated[str, Query(max_length=300)], services: Given, who: Reader) -> BaseView:
    """One base, by id or fingerprint, with its config."""
    return services.bases.get(name)


@router.get("/resolve")
def resolve(ref: Annotated[str, Query(max_length=1000)], services: Given, who: Reader) -> VersionView:
    """The version that a ref names now, with its lineage and manifest."""
    return services.catalog.resolve(ref)


@router.get("/adapters")
def list_adapters(
    services: Given,
    who: Reader,
    after: Annotated[str, Query(max_length=200)] = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 1000,
) -> list[AdapterView]:
    """Adapters by name; `after` is the last name of the page before."""
    return services.catalog.adapters(after=after, limit=limit)


@router.post("/versions", status_code=201)
def publish(body: Publication, services: Given, who: Writer) -> Published:
    """Make uploaded files a version; the same manifest again gives the existing one."""
    return services.publisher.publish(publication=body, by=who.name)


@router.get("/versions")
def list_versions(adapter: Annotated[str, Query(max_length=1000)], services: Given, who: Reader) -> list[VersionView]:
    """The ready versions of an adapter, the newest first."""
    return services.catalog.versions(adapter=adapter)


@router.put("/aliases")
def move_alias(body: AliasMove, services: Given, who: Writer) -> AliasView:
    """Point an alias at a version by compare-and-set."""
    return services.catalog.move_alias(move=body, by=who.name)


@router.get("/aliases")
def list_aliases(adapter: Annotated[str, Query(max_length=1000)], services: Given, who: Reader) -> list[AliasView]:
    """The aliases of an adapter."""
    return services.catalog.aliases(adapter=adapter)
