"""Whose bases are meant by the names in a request."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends

from registry.catalog.bases.names import BaseNamespace, IsPublished, Whose


async def _whose(base_namespace: BaseNamespace = None, published: IsPublished = False) -> Whose:
    return Whose(base_namespace, published)


WhoseBase = Annotated[Whose, Depends(_whose)]
