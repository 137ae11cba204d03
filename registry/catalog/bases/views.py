"""Bases."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query, Response

from registry.catalog.bases.parameters import WhoseBase
from registry.catalog.bases.service import Bases
from registry.http.routes import Admin, PageOf, Reader, Sender, apart, room, service
from sdk.schemas.catalog import BaseFix, BaseRegistration, BaseSelector, BaseView
from sdk.schemas.wire import Page

router = room("", "catalog")

BasesDep = Annotated[Bases, service(Bases)]


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
