"""Bases, adapters, versions and aliases."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query, Response

from registry.http.routes import Admin, Cursor, Given, Limit, Reader, Sender, Writer, apart, room, written
from sdk.schemas.aliases import (
    AliasMove,
    AliasMoveView,
    AliasRemoval,
    AliasRollback,
    AliasView,
    Protection,
    ProtectionView,
)
from sdk.schemas.catalog import (
    AdapterView,
    Annotation,
    BaseFix,
    BaseRegistration,
    BaseSelector,
    BaseView,
    Publication,
    Published,
    VersionMove,
    VersionView,
)
from sdk.schemas.pages import Page

router = room("", "catalog")

Adapter = Annotated[str, Query(max_length=1000, examples=["team/code-review"])]


@router.post("/bases", status_code=201)
async def register_base(body: BaseRegistration, services: Given, who: Sender) -> BaseView:
    """Record a base by its fingerprint."""
    return await apart(services.bases.register, long=True, base=body, who=who)


@router.get("/bases")
def list_bases(services: Given, who: Reader, cursor: Cursor = None, limit: Limit = 100) -> Page[BaseView]:
    """The bases that the caller may use, the newest first."""
    return services.bases.list(cursor=cursor, limit=limit, who=who)


@router.get("/base")
def get_base(
    name: Annotated[str, Query(max_length=300)],
    services: Given,
    who: Reader,
    namespace: Annotated[
        str | None, Query(max_length=64, description="Whose base is meant; left out: any that the token may see.")
    ] = None,
) -> BaseView:
    """One base, by id or fingerprint, with its config."""
    return services.bases.get(name, namespace=namespace, who=who)


@router.post("/base/remove", status_code=204)
def remove_base(body: BaseSelector, services: Given, who: Admin) -> Response:
    """Take a base away from a namespace; its versions stay."""
    services.bases.remove(name=body, who=who)
    return Response(status_code=204)


@router.post("/base/fix")
def fix_base(body: BaseFix, services: Given, who: Admin) -> BaseView:
    """Correct what a namespace calls a base and where it lies, or let its files be sent anew."""
    return services.bases.fix(fix=body, who=who)


@router.get("/resolve")
def resolve_ref(
    ref: Annotated[str, Query(max_length=1000, examples=["team/code-review@production"])], services: Given, who: Reader
) -> VersionView:
    """The version that a ref names now, with its lineage and manifest."""
    return services.catalog.resolve(ref, who=who)


@router.get("/adapters")
def list_adapters(
    services: Given,
    who: Reader,
    namespace: Annotated[str | None, Query(max_length=64, description='"-" for names without one.')] = None,
    prefix: Annotated[str, Query(max_length=129)] = "",
    cursor: Cursor = None,
    limit: Limit = 100,
) -> Page[AdapterView]:
    """Adapters with a ready version, by name."""
    return services.catalog.adapters(namespace=namespace, prefix=prefix, cursor=cursor, limit=limit, who=who)


@router.post("/versions", status_code=201, response_model=Published)
async def publish_version(body: Publication, services: Given, who: Writer) -> Response:
    """Make uploaded files a version; the same manifest again gives the existing one."""
    return written(await apart(services.publisher.publish, publication=body, who=who), 201)


@router.get("/versions")
def list_versions(
    adapter: Adapter,
    services: Given,
    who: Reader,
    archived: Annotated[bool, Query(description="With archived ones.")] = False,
    cursor: Cursor = None,
    limit: Limit = 100,
) -> Page[VersionView]:
    """The ready versions of an adapter, the newest first."""
    return services.catalog.versions(adapter=adapter, archived=archived, cursor=cursor, limit=limit, who=who)


@router.patch("/version")
def annotate_version(body: Annotation, services: Given, who: Writer) -> VersionView:
    """Write a description, tags or a note to a version."""
    return services.moves.annotate(annotation=body, who=who)


@router.post("/version/archive")
def archive_version(body: VersionMove, services: Given, who: Writer) -> VersionView:
    """Hide a version from lists and `latest`; its number still finds it."""
    return services.moves.archive(move=body, who=who)


@router.post("/version/restore")
def restore_version(body: VersionMove, services: Given, who: Writer) -> VersionView:
    """Bring an archived version back."""
    return services.moves.restore(move=body, who=who)


@router.post("/version/delete")
def delete_version(body: VersionMove, services: Given, who: Admin) -> VersionView:
    """Take a version away for good; its number stays taken."""
    return services.moves.delete(move=body, who=who)


@router.post("/version/release")
def release_version(body: VersionMove, services: Given, who: Admin) -> VersionView:
    """Let a quarantined version be one, with the next number."""
    return services.moves.release(move=body, who=who)


@router.put("/aliases")
def move_alias(body: AliasMove, services: Given, who: Writer) -> AliasView:
    """Point an alias at a version by compare-and-set."""
    return services.aliases.move(move=body, who=who)


@router.get("/aliases")
def list_aliases(adapter: Adapter, services: Given, who: Reader) -> list[AliasView]:
    """The aliases of an adapter."""
    return services.aliases.list(adapter=adapter, who=who)


@router.post("/aliases/rollback")
def rollback_alias(body: AliasRollback, services: Given, who: Writer) -> AliasView:
    """Let an alias name again what it named before its last move."""
    return services.aliases.rollback(rollback=body, who=who)


@router.post("/aliases/remove", status_code=204)
def remove_alias(body: AliasRemoval, services: Given, who: Writer) -> Response:
    """Take an alias away; its history stays."""
    services.aliases.remove(removal=body, who=who)
    return Response(status_code=204)


@router.get("/aliases/history")
def list_alias_moves(
    adapter: Adapter,
    services: Given,
    who: Reader,
    alias: Annotated[str | None, Query(max_length=64)] = None,
    cursor: Cursor = None,
    limit: Limit = 100,
) -> Page[AliasMoveView]:
    """The moves of an adapter's aliases, the newest first."""
    return services.aliases.history(adapter=adapter, alias=alias, cursor=cursor, limit=limit, who=who)


@router.get("/aliases/protected")
def list_protected(services: Given, who: Reader) -> list[ProtectionView]:
    """The aliases that only promoters move."""
    return services.aliases.protections(who=who)


@router.post("/aliases/protect")
def protect_alias(body: Protection, services: Given, who: Admin) -> ProtectionView:
    """Let only promoters move an alias."""
    return services.aliases.protect(scope=body.scope, alias=body.alias, who=who)


@router.post("/aliases/unprotect", status_code=204)
def unprotect_alias(body: Protection, services: Given, who: Admin) -> Response:
    """Let every writer move an alias again."""
    services.aliases.unprotect(scope=body.scope, alias=body.alias, who=who)
    return Response(status_code=204)
