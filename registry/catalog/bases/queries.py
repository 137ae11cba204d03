"""How a request's query says whose base is meant by a name."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Query

from registry.catalog.bases.names import Whose


async def _whose(
    base_namespace: Annotated[
        str | None, Query(max_length=64, description="The namespace whose base is meant by a name; `*` as `published`.")
    ] = None,
    published: Annotated[bool, Query(description="The base that is published for all is meant by a name.")] = False,
) -> Whose:
    return Whose(base_namespace, published)


#: Whose bases the names in a request mean.
WhoseBase = Annotated[Whose, Depends(_whose)]
