"""Bases, adapters, versions and aliases."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Query, Response

from registry.artifacts.long_facts import WAIT_S, TurnNeededError, holding_facts
from registry.catalog.aliases.service import Aliases
from registry.catalog.bases.names import BaseNamespace, IsPublished, Whose
from registry.catalog.bases.service import Bases
from registry.catalog.publishing.copying import Copies
from registry.catalog.publishing.publisher import Publisher
from registry.catalog.versions.claims import ClaimedVersions
from registry.catalog.versions.lifecycle import VersionState
from registry.catalog.versions.resolve import Resolver
from registry.catalog.versions.served_probes import ServedProbes
from registry.catalog.versions.service import Catalog
from registry.catalog.versions.version_states import VersionStates
from registry.http.routes import (
    Admin,
    PageOf,
    Reader,
    Sender,
    Writer,
    answered,
    apart,
    room,
    service,
    written,
)
from registry.principal import Principal
from sdk.schemas.aliases import AliasMoveView, AliasView, Protection, ProtectionView
from sdk.schemas.catalog import (
    AdapterView,
    Annotation,
    BaseFix,
    BaseRegistration,
    BaseSelector,
    BaseView,
    Publication,
    Published,
    VersionCopy,
    VersionMove,
    VersionView,
)
from sdk.schemas.claims import ClaimsView
from sdk.schemas.probe import VersionNorms
from sdk.schemas.serving import ServedProbeRecord, ServedProbeView
from sdk.schemas.wire import Page

router = room("", "catalog")

BasesDep = Annotated[Bases, service(Bases)]
CatalogDep = Annotated[Catalog, service(Catalog)]
ServedProbesDep = Annotated[ServedProbes, service(ServedProbes)]
PublisherDep = Annotated[Publisher, service(Publisher)]
VersionStatesDep = Annotated[VersionStates, service(VersionStates)]
AliasesDep = Annotated[Aliases, service(Aliases)]

Adapter = Annotated[str, Query(max_length=1000, examples=["team/code-review"])]


async def _whose(base_namespace: BaseNamespace = None, published: IsPublished = False) -> Whose:
    return Whose(base_namespace, published)


#: Whose bases the names in a request mean.
WhoseBase = Annotated[Whose, Depends(_whose)]


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


@router.post("/bases", status_code=201)
async def register_base(body: BaseRegistration, bases: BasesDep, who: Sender) -> BaseView:
    """Record a base by its fingerprint."""
    return await apart(bases.register, lane="reading long", base=body, who=who)


@router.get("/bases")
def list_bases(bases: BasesDep, who: Reader, page: PageOf) -> Page[BaseView]:
    """The bases that the caller may use, newest first."""
    return bases.list(who=who, **page)


@router.get("/base")
def get_base(
    name: Annotated[str, Query(max_length=300)],
    bases: BasesDep,
    who: Reader,
    whose: WhoseBase,
    namespace: Annotated[
        str | None,
        Query(
            max_length=64,
            description="What is meant by the name in this namespace, which also has the published bases; left out: in all "
            "that the token may see.",
        ),
    ] = None,
) -> BaseView:
    """One base, by id or fingerprint, with its config. A name that means several there is refused."""
    return bases.get(name, namespace=namespace, whose=whose, who=who)


@router.post("/base/remove", status_code=204, response_class=Response)
def remove_base(body: BaseSelector, bases: BasesDep, who: Admin) -> None:
    """Remove a base from a namespace; its versions stay."""
    bases.remove(name=body, who=who)


@router.post("/base/fix")
def fix_base(body: BaseFix, bases: BasesDep, who: Admin) -> BaseView:
    """Correct a base's id or location in a namespace, or let its files be sent again."""
    return bases.fix(fix=body, who=who)


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


@router.post("/versions", status_code=201, response_model=Published)
async def publish_version(body: Publication, publisher: PublisherDep, who: Writer) -> Response:
    """Publish uploaded files as a version; the same manifest again gives the existing one."""
    return written(await apart(publisher.publish, publication=body, who=who), 201)


@router.post("/version/copy", status_code=201, response_model=Published)
async def copy_version(body: VersionCopy, copies: Annotated[Copies, service(Copies)], who: Writer) -> Response:
    """Make a version's bytes a version of another adapter, with the same past; again, it gives the existing one."""
    return written(await apart(copies.copy, copy=body, who=who), 201)


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


@router.patch("/version")
def annotate_version(body: Annotation, states: VersionStatesDep, who: Writer) -> VersionView:
    """Add a description, tags or a note to a version."""
    return states.annotate(annotation=body, who=who)


@router.post("/version/archive")
def archive_version(body: VersionMove, states: VersionStatesDep, who: Writer) -> VersionView:
    """Hide a version from lists and `latest`; its number still finds it."""
    return states.move(body, VersionState.ARCHIVED, who=who)


@router.post("/version/restore")
def restore_version(body: VersionMove, states: VersionStatesDep, who: Writer) -> VersionView:
    """Bring an archived version back."""
    return states.move(body, VersionState.READY, who=who)


@router.post("/version/delete")
def delete_version(body: VersionMove, states: VersionStatesDep, who: Admin) -> VersionView:
    """Delete a version for good; its number stays taken."""
    return states.move(body, VersionState.DELETED, who=who)


@router.post("/version/release")
def release_version(body: VersionMove, states: VersionStatesDep, who: Admin) -> VersionView:
    """Release a quarantined version, with the next number."""
    return states.release(move=body, who=who)


@router.get("/aliases")
def list_aliases(adapter: Adapter, aliases: AliasesDep, who: Reader) -> list[AliasView]:
    """The aliases of an adapter."""
    return aliases.list(adapter=adapter, who=who)


@router.get("/aliases/history")
def list_alias_moves(
    adapter: Adapter,
    aliases: AliasesDep,
    who: Reader,
    page: PageOf,
    alias: Annotated[str | None, Query(max_length=64)] = None,
) -> Page[AliasMoveView]:
    """The moves of an adapter's aliases, newest first."""
    return aliases.history(adapter=adapter, alias=alias, who=who, **page)


@router.get("/aliases/protected")
def list_protected(aliases: AliasesDep, who: Reader) -> list[ProtectionView]:
    """The aliases that only promoters may move."""
    return aliases.protections(who=who)


@router.post("/aliases/protect")
def protect_alias(body: Protection, aliases: AliasesDep, who: Admin) -> ProtectionView:
    """Let only promoters move an alias."""
    return aliases.protect(scope=body.scope, alias=body.alias, who=who)


@router.post("/aliases/unprotect", status_code=204, response_class=Response)
def unprotect_alias(body: Protection, aliases: AliasesDep, who: Admin) -> None:
    """Let every writer move an alias again."""
    aliases.unprotect(scope=body.scope, alias=body.alias, who=who)
